//! Accepts connections and serves HTTP/2 on them. This uses hyper's server instead of tonic's: tonic's server gives all
//! connections the same maximum age, and it never sends a GOAWAY if a grace period is set.

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

/// The HTTP/2 flow-control window of a connection to a server, in bytes. h2 limits the cost of small frames to half of
/// the window. With the initial size of an adaptive window, h2 treated a hundred short concurrent requests as an attack
/// (`too_many_data_frames`).
const WINDOW: u32 = 4 << 20;
/// The server sends a keep-alive ping to a client that is silent for this long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The timeout of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The timeout from the start of a connection to its first call, including the HTTP/2 preface.
const UNUSED: Duration = Duration::from_secs(30);
/// The maximum size of the headers of a call, in bytes. Clients that are part of souk send less than 2 KiB.
const HEADERS: u32 = 16 << 10;
/// The interval of log lines about refused connections.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The pause after the system ran out of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts and serves connections.
pub(super) struct Connections {
    pub tls: Option<Acceptor>,
    pub age: Age,
    /// Counts open connections.
    pub open: Arc<Quota>,
    /// The maximum number of concurrent calls on a connection.
    pub max_streams: u32,
    pub service: Edge<Routes>,
}

impl Connections {
    /// Serves until `stop`, then until the last connection has ended. Dropping the future cuts off the remaining
    /// connections.
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
            // A connection without a peer address is already closed.
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

/// Counts refused connections, so that one log line reports many of them.
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

/// Accepts the next connection of a listener. `None`: this connection failed, but others may follow.
pub async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Responses are written in several pieces. With Nagle's algorithm a piece would wait for the peer's delayed
            // ACK, 40 ms.
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
