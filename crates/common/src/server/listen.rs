//! Accepts connections and serves HTTP/2 on them. hyper's own rather than tonic's server: that one gives all connections
//! the same age, and with a grace never says goodbye at all.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes, transport::server::TcpConnectInfo};
use tower::Service;

use super::{Age, Aging, Edge};
use crate::{
    quota::Quota,
    tls::{Acceptor, PeerCertificate},
};

/// Bytes that may be under way to a server on one connection. Half of it is what h2 lets small frames cost: with what
/// an adaptive window begins with, a hundred short requests at a time counted as an attack (`too_many_data_frames`).
const WINDOW: u32 = 4 << 20;
/// A client that is silent for this long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The timeout of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The timeout from the connection to its first call, including the HTTP/2 preface.
const UNUSED: Duration = Duration::from_secs(30);
/// Bytes of the headers of one call. souk's own callers send less than 2 KiB.
const HEADERS: u32 = 16 << 10;
/// How often connections that are refused are logged.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The pause when the system is out of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are served.
pub(super) struct Connections {
    pub tls: Option<Acceptor>,
    pub age: Age,
    /// Counts connections.
    pub open: Arc<Quota>,
    /// Calls on one connection at a time.
    pub max_streams: u32,
    pub service: Edge<Routes>,
}

impl Connections {
    /// Serves until `stop`, then until the last connection has ended. Dropping it cuts off what is left.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let (running, stopping, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let _cut = cut.clone().drop_guard();
        let mut protocol = auto::Builder::new(TokioExecutor::new()).http2_only();
        protocol
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEADERS)
            .max_concurrent_streams(self.max_streams);
        let mut refused = Refused::default();
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = &mut stop => break,
            };
            let Some(stream) = accepted else { continue };
            // A connection without an address is closed already.
            let Ok(peer) = stream.peer_addr() else { continue };
            let Some(held) = self.open.take(peer.ip(), 1) else {
                refused.one(peer);
                continue;
            };
            let from = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
            let service = self.service.clone();
            let (tls, age, protocol, stopping) = (self.tls.clone(), self.age, protocol.clone(), stopping.clone());
            let connection = async move {
                let _held = held;
                let (stream, certificate) = match tls {
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let certificate = PeerCertificate::of(stream.get_ref().1);
                            (Either::Right(stream), certificate)
                        }
                        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => return tracing::debug!("TLS handshake timed out"),
                    },
                    None => (Either::Left(stream), None),
                };
                let used = CancellationToken::new();
                let first = used.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    first.cancel();
                    let extensions = request.extensions_mut();
                    extensions.insert(from.clone());
                    if let Some(certificate) = &certificate {
                        extensions.insert(certificate.clone());
                    }
                    service.clone().call(request.map(Body::new))
                });
                let connection = protocol.serve_connection(TokioIo::new(stream), service).into_owned();
                let served = age.serve(connection, Aging::default(), stopping);
                let unused = async {
                    if tokio::time::timeout(UNUSED, used.cancelled()).await.is_ok() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    served = served => {
                        if let Err(error) = served {
                            tracing::debug!(error, "connection ended early");
                        }
                    }
                    () = unused => tracing::debug!(%peer, "idle connection closed: no call came on it"),
                }
            };
            running.spawn(cut.clone().run_until_cancelled_owned(connection));
        }
        drop(listener);
        stopping.cancel();
        running.close();
        running.wait().await;
    }
}

/// Connections that were refused, logged once for many.
#[derive(Default)]
struct Refused {
    count: u64,
    logged: Option<Instant>,
}

impl Refused {
    fn one(&mut self, peer: SocketAddr) {
        self.count += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            let last = peer.ip();
            tracing::warn!(count = self.count, %last, "connections were refused: there are as many as server.max_connections \
                or server.max_connections_per_address allows");
            *self = Self { count: 0, logged: Some(Instant::now()) };
        }
    }
}

/// The next connection to a listener. `None`: this one failed, others may come.
pub async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are written in pieces; waiting to fill a packet holds them up for the peer's delayed ACK, 40 ms.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            Some(stream)
        }
        Err(error) => {
            let aborted = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
            if !aborted {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}
