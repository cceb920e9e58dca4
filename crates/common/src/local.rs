//! Servers of this process: [`client`](crate::client) calls them as they are, without socket and HTTP/2.
//!
//! `souk up` names the addresses that its services listen on. A server keeps listening there for everyone else.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes};
use tower::Service;

use crate::server::Edge;

/// The addresses of this process's servers. By default there is none, and all calls go over the network.
#[derive(Debug, Clone, Default)]
pub struct Local(Arc<HashMap<SocketAddr, watch::Sender<Stage>>>);

/// How far a server has come.
#[derive(Debug, Clone, Default)]
enum Stage {
    #[default]
    Starting,
    Serving(Served),
    Stopped,
}

impl Local {
    /// Servers that are about to serve at these addresses.
    pub fn of(listening: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(Arc::new(listening.into_iter().map(|address| (reached(address), watch::Sender::default())).collect()))
    }

    /// Waits until the server at this address serves. `None` where it is not of this process; an error where it has
    /// stopped.
    pub(crate) async fn find(&self, address: SocketAddr) -> Option<Result<Served, Stopped>> {
        let mut stages = self.0.get(&address)?.subscribe();
        let stage = stages.wait_for(|stage| !matches!(stage, Stage::Starting)).await;
        Some(match stage.as_deref() {
            Ok(Stage::Serving(served)) => Ok(served.clone()),
            _ => Err(Stopped),
        })
    }

    /// The server at this address serves, until the guard is stopped or dropped.
    pub(crate) fn serve(&self, listening: SocketAddr, service: Edge<Routes>) -> Serving {
        let served = Served { service, running: TaskTracker::new(), stopped: CancellationToken::new() };
        let serving = Serving { local: self.clone(), address: reached(listening), served };
        serving.tell(Stage::Serving(serving.served.clone()));
        serving
    }
}

/// What listens on every address is reached on this machine by the loopback one.
pub fn reached(mut listening: SocketAddr) -> SocketAddr {
    if listening.ip().is_unspecified() {
        listening.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    listening
}

/// A server has stopped: it takes no more calls.
#[derive(Debug, thiserror::Error)]
#[error("the service has stopped")]
pub(crate) struct Stopped;

/// A server that can be called.
#[derive(Clone)]
pub(crate) struct Served {
    service: Edge<Routes>,
    running: TaskTracker,
    stopped: CancellationToken,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl Served {
    /// Cancelled once it takes no more calls.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.stopped
    }

    /// Calls it. Whoever drops the future or the answer gives the call up. As over the network, nothing crosses but
    /// what is in headers and bodies.
    pub(crate) fn call(&self, mut request: Request<Body>) -> impl Future<Output = Response<Body>> + Send + 'static {
        let running = self.running.token();
        request.extensions_mut().clear();
        let answered = self.service.clone().call(request);
        async move {
            let Ok(mut response): Result<_, Infallible> = answered.await;
            response.extensions_mut().clear();
            response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _until_the_end = &running;
                    frame
                }))
            })
        }
    }
}

/// A server's own end of it.
pub(crate) struct Serving {
    local: Local,
    address: SocketAddr,
    served: Served,
}

impl Serving {
    /// Takes no more calls.
    pub(crate) fn stop(&self) {
        self.tell(Stage::Stopped);
        self.served.stopped.cancel();
    }

    /// Stops, and waits until those under way have ended.
    pub(crate) async fn ended(&self) {
        self.stop();
        self.served.running.close();
        self.served.running.wait().await;
    }

    fn tell(&self, stage: Stage) {
        if let Some(stages) = self.local.0.get(&self.address) {
            stages.send_replace(stage);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}
