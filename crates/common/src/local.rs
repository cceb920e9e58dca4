//! Servers of this process: [`client`](crate::client) makes its unary calls to them as they are, without socket and
//! HTTP/2.
//!
//! `souk up` gives all its services the same [`Local`]. They listen for everyone else all the same, and a client keeps
//! its connection: it tells how the server is, and streams go over it, for one that its reader leaves alone must not
//! stop in the middle of what it does.

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

/// All that a server does with a request, as its clients see it.
pub(crate) type Whole = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The servers of a process, by the addresses that they are reached at.
#[derive(Debug, Clone, Default)]
pub struct Local(Arc<Mutex<HashMap<SocketAddr, Served>>>);

impl Local {
    /// The server at this address, where it is one of these.
    pub(crate) fn find(&self, address: SocketAddr) -> Option<Served> {
        self.servers().get(&address).cloned()
    }

    /// A server is called at this address, until what is returned is stopped or dropped.
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

/// A listener on all addresses is reached on this machine by the loopback address.
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
    /// Makes a unary call. Dropping the future gives it up.
    pub(crate) async fn call(mut self, mut request: Request<Body>) -> Result<Response<Body>, Stopped> {
        // In this order: either the server waits for this call, or the call sees that the server has stopped.
        let _running = self.running.token();
        if self.stopped.is_cancelled() {
            return Err(Stopped);
        }
        // Extensions would not go over the network either.
        request.extensions_mut().clear();
        let Ok(mut response): Result<_, Infallible> = self.service.call(request).await;
        response.extensions_mut().clear();
        Ok(response)
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
        self.served.stopped.cancel();
        let left = self.local.servers().remove(&self.address);
        drop(left);
    }

    /// Waits until it has stopped, and the calls under way have ended.
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
