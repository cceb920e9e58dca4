//! Serves every souk service: one stack around the generated services.
//!
//! From the outside in: panics are caught, the request gets its id, span and metrics, the deadline runs, the caller's
//! token and the method's access rule are checked, the message is read within bounds of bytes and time, work beyond what
//! the service can do is refused at once, the message is checked against the contract. Only then does a service's own
//! code see it.

mod age;
mod edge;
mod ended;
mod listen;
mod message;
mod stop;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_check_response, health_server::Health},
    server::HealthReporter,
};
use tower::Layer;

pub use self::age::{Age, Aging};
pub(crate) use self::edge::Edge;
pub use self::listen::accept;
pub use self::stop::Stop;
use self::{edge::EdgeLayer, listen::Connections};
use crate::{
    auth::{Recheck, Verifier},
    contract::{Contract, ContractError},
    error::{Problem, Reason},
    framing::FRAME,
    local::{Local, Whole},
    quota::Quota,
    telemetry, tls,
};

/// Settings of `[server]`, the same for every service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The longest a request may take; a caller's shorter deadline goes first.
    #[serde(with = "crate::config::duration")]
    pub deadline: Duration,
    /// Requests worked on at a time. More are refused at once.
    pub max_concurrent_requests: usize,
    /// Streams to clients that are open at a time. More are refused at once.
    pub max_streams: usize,
    /// The same of those that watch health or ask reflection, which need no token.
    pub max_health_streams: usize,
    /// Bytes of the largest request message that any method takes.
    #[serde(with = "crate::config::byte_size")]
    pub max_request_bytes: usize,
    /// Bytes of requests that are being received at a time; half of them for one address.
    #[serde(with = "crate::config::byte_size")]
    pub max_receiving_bytes: usize,
    /// How long the message of a request may take to arrive.
    #[serde(with = "crate::config::duration")]
    pub receive_timeout: Duration,
    /// Connections to a service at a time.
    pub max_connections: u64,
    /// Of these, from one address.
    pub max_connections_per_address: u64,
    /// Calls on one connection at a time; more wait for their turn.
    pub max_streams_per_connection: u32,
    /// How long a service that is told to stop says that it is not ready before it stops taking requests. What stops it
    /// waits for this long; see [`Stop`].
    #[serde(with = "crate::config::duration")]
    pub shutdown_delay: Duration,
    /// The time for running requests to end when the service stops.
    #[serde(with = "crate::config::duration")]
    pub drain: Duration,
    /// How old a connection may become, give or take a tenth; zero: no limit.
    #[serde(with = "crate::config::duration")]
    pub max_connection_age: Duration,
    /// How long calls under way on an old connection may continue.
    #[serde(with = "crate::config::duration")]
    pub max_connection_age_grace: Duration,
    /// Certificate, and whose callers are let in.
    pub tls: tls::ServerSettings,
    /// The servers of this process, which this one joins.
    #[serde(skip)]
    pub local: Local,
    /// How it is stopped.
    #[serde(skip)]
    pub stop: Stop,
}

impl Config {
    /// Fails where nothing could be served by these settings: the setting's name, and what would be right.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let at_least_one = [
            ("max_concurrent_requests", self.max_concurrent_requests == 0),
            ("max_streams", self.max_streams == 0),
            ("max_health_streams", self.max_health_streams == 0),
            ("max_connections", self.max_connections == 0),
            ("max_connections_per_address", self.max_connections_per_address == 0),
            ("max_streams_per_connection", self.max_streams_per_connection == 0),
        ];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, zero)| *zero) {
            return Err((name, "must be 1 or more".to_owned()));
        }
        let permits = [("max_streams", self.max_streams), ("max_health_streams", self.max_health_streams)];
        if let Some((name, _)) = permits.into_iter().find(|(_, count)| *count > tokio::sync::Semaphore::MAX_PERMITS) {
            return Err((name, "must be no more than can be counted".to_owned()));
        }
        if self.receive_timeout.is_zero() {
            return Err(("receive_timeout", "must be more than 0s".to_owned()));
        }
        // Of its half, an address needs room for the largest message and its headers.
        let least = self.max_request_bytes.saturating_add(FRAME + edge::REQUEST_BYTES).saturating_mul(2);
        if self.max_receiving_bytes < least {
            let right =
                format!("must be {least}B or more, twice what the largest request (server.max_request_bytes) needs");
            return Err(("max_receiving_bytes", right));
        }
        Ok(())
    }
}

/// Bytes of the largest question to reflection. Its library repeats a name that it does not know whole, in a header.
pub const REFLECTION_BYTES: usize = 4096;

/// A service that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The contract does not allow it.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The descriptors cannot be offered by reflection.
    #[error("reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The files of `[server.tls]` cannot be read.
    #[error("server.tls cannot be used")]
    Tls(#[from] tls::TlsError),
    /// The listener has no address.
    #[error("the listener failed")]
    Listener(#[from] std::io::Error),
}

/// Puts a service's parts together and serves them.
pub struct Server {
    config: Config,
    name: Arc<str>,
    contract: Arc<Contract>,
    verifier: Arc<Verifier>,
    recheck: Option<Arc<dyn Recheck>>,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    health: HealthReporter,
    health_service: tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>,
    checks: Vec<tokio::task::JoinHandle<()>>,
}

/// How often a readiness check is repeated.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How often while it fails: who waits for it is not to wait longer than for the cause.
const CHECK_AGAIN: Duration = Duration::from_millis(500);

impl Server {
    /// A server without services, for the service with this name, for example `order`.
    pub fn new(config: &Config, name: &str, contract: &Arc<Contract>, verifier: Arc<Verifier>) -> Self {
        let health = HealthReporter::new();
        let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
        Self {
            config: config.clone(),
            name: name.into(),
            contract: contract.clone(),
            verifier,
            recheck: None,
            routes: RoutesBuilder::default(),
            services: Vec::new(),
            health,
            health_service: tonic_health::pb::health_server::HealthServer::new(health_service),
            checks: Vec::new(),
        }
    }

    /// Asks this what each caller is worth at the moment, before the access rule of any method that is not public.
    #[must_use]
    pub fn rechecking(mut self, recheck: Arc<dyn Recheck>) -> Self {
        self.recheck = Some(recheck);
        self
    }

    /// Adds a generated service. Every one of its methods needs an access rule in the contract.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Reports SERVING only while this check succeeds.
    #[must_use]
    pub fn ready_while<C, F>(mut self, check: C) -> Self
    where
        C: Fn() -> F + Send + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        let (health, services) = (self.health.clone(), self.services.clone());
        self.checks.push(tokio::spawn(async move {
            loop {
                let ready = check().await;
                report(&health, &services, ready).await;
                tokio::time::sleep(if ready { CHECK_EVERY } else { CHECK_AGAIN }).await;
            }
        }));
        self
    }

    /// Serves until `shutdown`, then lets running requests end for the configured time. Says that it is not ready from
    /// then on, or from when [`Stop`] announces it.
    ///
    /// # Errors
    /// Before anything is served, where a method has no access rule or the certificate cannot be used.
    pub async fn serve(mut self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServerError> {
        self.contract.require_access(&self.services)?;
        self.routes.add_service(self.health_service);
        self.routes.add_service(reflection(&self.services).build_v1()?.max_decoding_message_size(REFLECTION_BYTES));
        self.routes
            .add_service(reflection(&self.services).build_v1alpha()?.max_decoding_message_size(REFLECTION_BYTES));
        if self.checks.is_empty() {
            report(&self.health, &self.services, true).await;
        }
        let _probe = probe(&self.name, &self.health);
        let tls = self.config.tls.load(tls::GRPC)?;
        let draining = CancellationToken::new();
        let edge =
            EdgeLayer::new(&self.config, self.name, self.contract, self.verifier, self.recheck, draining.clone());
        let (announced, stopped) = (self.config.stop.announced().clone(), shutdown.clone());
        let service = edge.layer(self.routes.routes().prepare());
        let local = self.config.local.serve(listener.local_addr()?, Whole::new(service.clone()));
        let (health, services, checks) = (self.health, self.services, self.checks);
        let open = Quota::new(self.config.max_connections, self.config.max_connections_per_address);
        let max_streams = self.config.max_streams_per_connection;
        let connections = Connections { tls, age: Age::of(&self.config), open, max_streams, service };
        let serving = connections.serve(listener, async move {
            tokio::select! {
                () = announced.cancelled() => {}
                () = stopped.cancelled() => {}
            }
            // Balancers look here: they stop sending before the last request has ended. A check that is just reporting
            // must not have the last word.
            for check in checks {
                check.abort();
                let _ = check.await;
            }
            report(&health, &services, false).await;
            stopped.cancelled().await;
            draining.cancel();
        });
        tokio::pin!(serving);
        tokio::select! {
            // First, since after it the other may end at once, and rightly so.
            biased;
            () = shutdown.cancelled() => local.stop(),
            () = &mut serving => return Ok(()),
        }
        let ended = async {
            serving.await;
            local.ended().await;
        };
        let drain = self.config.stop.drain(self.config.drain);
        match tokio::time::timeout(drain, ended).await {
            Ok(()) => {}
            Err(_) => {
                tracing::warn!(?drain, "requests still running at the end of the drain were cancelled");
            }
        }
        Ok(())
    }
}

/// For work that there is no room for.
fn overloaded() -> Problem {
    Problem::new(Reason::Overloaded, "the service has as much work as it can do: try again later")
        .retry_after(Duration::from_secs(1))
}

async fn report(health: &HealthReporter, services: &[&'static str], ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in services.iter().copied().chain([""]) {
        health.set_service_status(service, status).await;
    }
}

/// Tells those who run the service the same as gRPC's health does.
fn probe(name: &Arc<str>, health: &HealthReporter) -> telemetry::probes::Probe {
    let reporter = health.clone();
    telemetry::probes::ready_while(name.clone(), move || {
        let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
        async move {
            let answer = health.check(tonic::Request::new(HealthCheckRequest::default())).await;
            answer.is_ok_and(|answer| answer.get_ref().status() == health_check_response::ServingStatus::Serving)
        }
    })
}

fn reflection(services: &[&'static str]) -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(souk_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let services = services.iter().copied().chain(["grpc.health.v1.Health"]);
    services.fold(builder, tonic_reflection::server::Builder::with_service_name)
}
