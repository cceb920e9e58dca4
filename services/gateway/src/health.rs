//! Readiness of all backends, over REST and gRPC.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, future::join_all, stream};
use serde::Serialize;
use souk_common::{client::AddressState, server::Stop};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use crate::upstream::{Upstream, Upstreams};

/// How long a result is reused, so that many probes do not cause many calls.
const FRESH: Duration = Duration::from_millis(200);
/// Interval at which `Watch` checks the state.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Checks the health of the backends.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    backends: Vec<Upstream>,
    /// Full names of the services, each with the index of its backend.
    services: Vec<(String, usize)>,
    timeout: Duration,
    stop: Stop,
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

/// The readiness of the gateway and its backends.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// True if every backend is ready and the gateway is not about to stop.
    pub ready: bool,
    /// True if the gateway is about to stop.
    pub stopping: bool,
    /// The backends, by their configured names.
    pub backends: Vec<Backend>,
}

/// The readiness of one backend.
#[derive(Debug, Clone, Serialize)]
pub struct Backend {
    /// The configured name.
    pub name: String,
    /// True if at least one address of the backend is ready.
    pub ready: bool,
    /// The best state of the backend's addresses: `SERVING`, `NOT_SERVING` or unreachable.
    pub state: &'static str,
    /// The state of each address, for operators.
    #[serde(skip)]
    pub addresses: Vec<(SocketAddr, AddressState)>,
}

impl Readiness {
    /// Checks these backends. A backend that does not respond within `timeout` is not ready. After `stop` no backend
    /// counts as ready, so that a load balancer sends requests elsewhere.
    pub fn new(upstreams: &Upstreams, timeout: Duration, stop: Stop) -> Self {
        let backends = upstreams.all();
        let index = |service: &str| {
            let name = &upstreams.of(service)?.name;
            Some((service.to_owned(), backends.iter().position(|backend| backend.name == *name)?))
        };
        let services = upstreams.services().filter_map(index).collect();
        Self(Arc::new(Inner { backends, services, timeout, stop, last: Mutex::new(None) }))
    }

    /// The current readiness of the backends.
    pub async fn report(&self) -> Arc<Report> {
        // The lock is held during the check, so that concurrent probes get the same result.
        let mut last = self.0.last.lock().await;
        if let Some((asked, report)) = &*last
            && asked.elapsed() < FRESH
            && report.stopping == self.is_stopping()
        {
            return report.clone();
        }
        let backends = join_all(self.0.backends.iter().map(|backend| self.ask(backend))).await;
        let stopping = self.is_stopping();
        let ready = !stopping && backends.iter().all(|backend| backend.ready);
        let report = Arc::new(Report { ready, stopping, backends });
        *last = Some((Instant::now(), report.clone()));
        report
    }

    fn is_stopping(&self) -> bool {
        self.0.stop.announced().is_cancelled()
    }

    async fn ask(&self, backend: &Upstream) -> Backend {
        let addresses = backend.client.check(self.0.timeout).await;
        // A backend is ready if one of its replicas can be called.
        let best = addresses.iter().map(|(_, state)| *state).max().unwrap_or(AddressState::Down);
        let state = match best {
            AddressState::Up => "SERVING",
            AddressState::Ejected => "FAILING",
            AddressState::NotServing => "NOT_SERVING",
            AddressState::Silent => "TIMED_OUT",
            AddressState::Down => "UNREACHABLE",
        };
        Backend { name: backend.name.clone(), ready: best == AddressState::Up, state, addresses }
    }

    /// The state of a service, or of all services if the name is empty.
    async fn status(&self, service: &str) -> Result<ServingStatus, Status> {
        let backend = match service {
            "" => None,
            name => {
                let found = self.0.services.iter().find(|(known, _)| known == name);
                Some(found.ok_or_else(|| Status::not_found("there is no such service"))?.1)
            }
        };
        let report = self.report().await;
        let ready = match backend {
            None => report.ready,
            Some(index) => !report.stopping && report.backends.get(index).is_some_and(|backend| backend.ready),
        };
        Ok(if ready { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Readiness {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(answer(self.status(&request.get_ref().service).await?)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = Watch { readiness: self.clone(), service: request.into_inner().service, last: None };
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }
}

/// Streams each change of a service's state.
struct Watch {
    readiness: Readiness,
    service: String,
    last: Option<ServingStatus>,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            // The protocol reports an unknown service as a state, because the service may be added later.
            let status = self.readiness.status(&self.service).await.unwrap_or(ServingStatus::ServiceUnknown);
            if self.last.replace(status) != Some(status) {
                return Some((Ok(answer(status)), self));
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}
