//! Serves every souk service: one stack of layers around the generated services.
//!
//! From the outermost layer to the innermost: panics are caught; the request gets its id, span and metrics; the
//! deadline starts; the caller's token and the method's access rule are checked; the message is read within limits of
//! bytes and time; requests beyond the server's capacity are refused at once; the message is checked against the
//! contract. Only then does the service's own code run.

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
    /// The maximum duration of a request. A shorter deadline of the caller overrides it.
    #[serde(with = "crate::config::duration")]
    pub deadline: Duration,
    /// The maximum number of concurrent requests. Further requests are refused at once.
    pub max_concurrent_requests: usize,
    /// The maximum number of open streams. Further streams are refused at once.
    pub max_streams: usize,
    /// The maximum number of open streams of health and reflection, which need no token.
    pub max_health_streams: usize,
    /// The maximum size of a request message of any method, in bytes.
    #[serde(with = "crate::config::byte_size")]
    pub max_request_bytes: usize,
    /// The maximum number of bytes of requests that are being received at a time. One address can use half of it.
    #[serde(with = "crate::config::byte_size")]
    pub max_receiving_bytes: usize,
    /// The longest time that the message of a request may take to arrive.
    #[serde(with = "crate::config::duration")]
    pub receive_timeout: Duration,
    /// The maximum number of open connections.
    pub max_connections: u64,
    /// The maximum number of open connections from one address.
    pub max_connections_per_address: u64,
    /// The maximum number of concurrent calls on a connection. Further calls wait.
    pub max_streams_per_connection: u32,
    /// Duration between the announcement of a stop and the drain. In this time the service reports that it is not
    /// ready, but still accepts requests. The owner of the server waits for this duration; see [`Stop`].
    #[serde(with = "crate::config::duration")]
    pub shutdown_delay: Duration,
    /// The time that running requests get to end when the service stops.
    #[serde(with = "crate::config::duration")]
    pub drain: Duration,
    /// The maximum age of a connection, plus or minus a tenth. Zero: no limit.
    #[serde(with = "crate::config::duration")]
    pub max_connection_age: Duration,
    /// The time that running calls get to end on a connection that has reached its maximum age.
    #[serde(with = "crate::config::duration")]
    pub max_connection_age_grace: Duration,
    /// The server's certificate, and the authority of client certificates.
    pub tls: tls::ServerSettings,
    /// The servers of this process. This server registers itself there.
    #[serde(skip)]
    pub local: Local,
    /// The handle with which the owner announces a stop.
    #[serde(skip)]
    pub stop: Stop,
}

impl Config {
    /// Fails if the server could not work with these settings. The error has the name of the wrong setting and what
    /// would be right.
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
        // One address can use half of the budget. That half must have room for the largest message and its headers.
        let least = self.max_request_bytes.saturating_add(FRAME + edge::REQUEST_BYTES).saturating_mul(2);
        if self.max_receiving_bytes < least {
            let right =
                format!("must be {least}B or more, twice what the largest request (server.max_request_bytes) needs");
            return Err(("max_receiving_bytes", right));
        }
        Ok(())
    }
}

/// The maximum size of a reflection request, in bytes. The reflection library repeats the whole of an unknown name in a
/// header of the response.
pub const REFLECTION_BYTES: usize = 4096;

/// A service that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The contract is invalid for a server, for example a method without an access rule.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The descriptors are invalid for the reflection service.
    #[error("reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The files of `[server.tls]` cannot be read or are invalid.
    #[error("server.tls cannot be used")]
    Tls(#[from] tls::TlsError),
    /// The address of the listener cannot be read.
    #[error("the listener failed")]
    Listener(#[from] std::io::Error),
}

/// Assembles a server from a service's parts and serves it.
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

/// The interval of readiness checks.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// The interval of readiness checks while one fails. It is short, so that the service becomes ready soon after the
/// cause is gone.
const CHECK_AGAIN: Duration = Duration::from_millis(500);

impl Server {
    /// Creates a server without services, for the service of this name, for example `order`.
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

    /// Looks up the current identity of each caller with `recheck`, before the access rule of a method that is not
    /// public is checked.
    #[must_use]
    pub fn rechecking(mut self, recheck: Arc<dyn Recheck>) -> Self {
        self.recheck = Some(recheck);
        self
    }

    /// Adds a generated service. Each of its methods needs an access rule in the contract.
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

    /// Adds a readiness check: the health service reports SERVING only while it succeeds.
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

    /// Serves until `shutdown`, then lets running requests end within the configured drain time. The server reports
    /// that it is not ready from `shutdown` on, or from the moment when [`Stop`] announces it.
    ///
    /// # Errors
    /// Fails before anything is served if a method has no access rule, or if the certificate is invalid.
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
            // Load balancers check readiness: they must stop sending requests before the server stops. The checks are
            // stopped first, so that a check that is still running cannot report the service as ready again.
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
            // The shutdown branch is polled first, because `serving` may end immediately after a shutdown, and that is
            // no error.
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

/// The error for requests beyond the server's capacity.
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

/// Registers the server for `/readyz`, with the same result as the gRPC health check.
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
