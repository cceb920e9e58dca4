//! The servers of this process. [`client`](crate::client) makes unary calls to them directly, without a socket and
//! HTTP/2.
//!
//! `souk up` gives all its services the same [`Local`]. The services still listen for other clients. A client also
//! keeps a network connection to such a server, for health checks and for streams. Streams use the connection because a
//! client that does not read its stream must not block the server in the middle of its work.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Request, Response};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

/// A server with all its layers, as its clients see it.
pub(crate) type Whole = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The servers of a process by their addresses.
#[derive(Debug, Clone, Default)]
pub struct Local(Arc<Mutex<HashMap<SocketAddr, Served>>>);

impl Local {
    /// The server at this address, if it belongs to this process.
    pub(crate) fn find(&self, address: SocketAddr) -> Option<Served> {
        self.servers().get(&address).cloned()
    }

    /// Registers a server at this address until the returned value is stopped or dropped.
    pub(crate) fn serve(&self, listening: SocketAddr, service: Whole) -> Serving {
        let served = Served { service, running: TaskTracker::new(), stopped: CancellationToken::new() };
        let address = reached(listening);
        self.servers().insert(address, served.clone());
        Serving { local: self.clone(), address, served }
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address at which this machine can reach a listener: a listener on all addresses is reached by loopback.
pub fn reached(mut listening: SocketAddr) -> SocketAddr {
    if listening.ip().is_unspecified() {
        listening.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    listening
}

/// The server has stopped and accepts no more calls.
#[derive(Debug, thiserror::Error)]
#[error("the service has stopped")]
pub(crate) struct Stopped;

/// A server that can be called directly.
#[derive(Clone)]
pub(crate) struct Served {
    service: Whole,
    running: TaskTracker,
    stopped: CancellationToken,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl Served {
    /// Makes a unary call. Dropping the future cancels it.
    pub(crate) async fn call(mut self, mut request: Request<Body>) -> Result<Response<Body>, Stopped> {
        // The order matters: with it, either the server waits for this call, or the call notices that the server has
        // stopped.
        let _running = self.running.token();
        if self.stopped.is_cancelled() {
            return Err(Stopped);
        }
        // Extensions are removed, because a network call would not transfer them either.
        request.extensions_mut().clear();
        let Ok(mut response): Result<_, Infallible> = self.service.call(request).await;
        response.extensions_mut().clear();
        Ok(response)
    }
}

/// The server's own handle of its registration.
pub(crate) struct Serving {
    local: Local,
    address: SocketAddr,
    served: Served,
}

impl Serving {
    /// Stops accepting calls.
    pub(crate) fn stop(&self) {
        self.served.stopped.cancel();
        let left = self.local.servers().remove(&self.address);
        drop(left);
    }

    /// Waits until the server has stopped and its running calls have ended.
    pub(crate) async fn ended(&self) {
        self.served.running.close();
        self.served.running.wait().await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}
