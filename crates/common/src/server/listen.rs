//! Accepts connections and serves HTTP/2 on them. hyper's own rather than tonic's server: that one gives all connections
//! the same age, and with a grace never says goodbye at all.

use std::{future::Future, io, pin::pin, time::Duration};

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
use crate::tls::Acceptor;

/// Bytes that may be under way to a server on one connection. Half of it is what h2 lets small frames cost: with what
/// an adaptive window begins with, a hundred short requests at a time counted as an attack (`too_many_data_frames`).
const WINDOW: u32 = 4 << 20;
/// A client that is silent for this long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long the handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait where the system is out of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are served.
pub(super) struct Connections {
    pub tls: Option<Acceptor>,
    pub age: Age,
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
            // What is too much work is refused with a status.
            .max_concurrent_streams(None);
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = &mut stop => break,
            };
            let Some(stream) = accepted else { continue };
            let from = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: stream.peer_addr().ok() };
            let service = self.service.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(from.clone());
                service.clone().call(request.map(Body::new))
            });
            let (tls, age, protocol, stopping) = (self.tls.clone(), self.age, protocol.clone(), stopping.clone());
            let connection = async move {
                let stream = match tls {
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => Either::Right(stream),
                        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
                        Err(_) => return tracing::debug!("a handshake took too long"),
                    },
                    None => Either::Left(stream),
                };
                let connection = protocol.serve_connection(TokioIo::new(stream), service).into_owned();
                let served = age.serve(connection, Aging::default(), stopping);
                if let Err(error) = served.await {
                    tracing::debug!(error, "a connection ended early");
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
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}
