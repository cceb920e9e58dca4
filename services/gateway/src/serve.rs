//! Accepts connections, HTTP/1.1 and HTTP/2 on one port, and closes them gracefully.

use std::{io, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use souk_common::{
    contract::Contract,
    server::{self, Age, Aging},
    telemetry,
    tls::Acceptor,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

use crate::{
    adopt,
    cache::follow::Log,
    config::{Config, Settings},
    connection::{Bounds, Connections, Entry, Linger, Requests, Socket, Staged},
    error::ServeError,
    gateway::Gateway,
};

/// Maximum number of concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// Send buffer of one HTTP/2 response, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Maximum number of header fields in an HTTP/1.1 request.
const HEADERS: usize = 100;
/// How long a stopping gateway still accepts connections that the system has already established. Closing the listener
/// would reset them.
const BACKLOG: Duration = Duration::from_millis(20);
/// How long idle connections stay open after that. Closing one could reset a request that is being sent. In this time,
/// responses tell clients to open a new connection.
const LAST_REQUESTS: Duration = Duration::from_millis(100);
/// A client that was silent for this long gets a ping, and has the same time to answer it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Serves souk's contract, or the one that the settings name, until `shutdown`. Then it lets running requests end for
/// the configured time.
///
/// # Errors
/// The contract or the settings are invalid. Nothing has been served then.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    if config.settings.contract.is_foreign() {
        let parts = tokio::select! {
            parts = adopt::parts(&config) => parts?,
            // `adopt::parts` waits for backends that are still starting.
            () = shutdown.cancelled() => return Ok(()),
        };
        let gateway = Gateway::of(config, parts)?;
        gateway.serve(listener, shutdown).await;
        return Ok(());
    }
    let contract = Contract::souk()?.clone();
    let name = &config.settings.keys_from;
    let (_, address) = config.settings.backends.of(name).ok_or_else(|| ServeError::Keys(name.clone()))?;
    let verifier = config.common.verifier(&config.client(address), &contract, "gateway")?;
    let max_header_bytes = config.settings.max_header_bytes;
    let gateway = Gateway::new(config, contract, souk_proto::DESCRIPTORS, verifier)?;
    gateway.routes.fit(max_header_bytes)?;
    gateway.serve(listener, shutdown).await;
    Ok(())
}

impl Gateway {
    /// Serves until `shutdown`. Then it lets running requests end for the configured time.
    pub async fn serve(mut self, listener: TcpListener, shutdown: CancellationToken) {
        let (drain, stop) = (self.config.common.server.drain, self.config.common.server.stop.clone());
        let settings = Arc::new(self.config.settings.clone());
        let bounds = Bounds::of(&self.config);
        let acceptor = self.tls.take();
        if let Some(shared) = &self.shared {
            shared.connect().await;
        }
        let readiness = self.readiness.clone();
        let _probe = telemetry::probes::ready_while("gateway", move || {
            let readiness = readiness.clone();
            async move { readiness.report().await.ready }
        });
        // Cancels requests that still run at the end of the drain, and stops background tasks.
        let cut = CancellationToken::new();
        let _cut = cut.clone().drop_guard();
        if let Some(cache) = &self.cache {
            for log in Log::all(&self.contract, cache, |method| self.upstreams.own(method)) {
                tokio::spawn(log.follow(cache.clone(), cut.clone()));
            }
        }
        let gateway = Arc::new(self);
        let stack = gateway.stack();
        let protocol = protocol(&settings);
        let age = Age::of(&gateway.config.common.server);
        // Tells every connection to end, and waits until all have ended.
        let (draining, connections) = (CancellationToken::new(), TaskTracker::new());
        let open = Connections::new(&settings);
        tokio::spawn(cut.clone().run_until_cancelled_owned(open.clone().watch()));
        let serve = |(stream, entry): (TcpStream, Entry)| {
            let (linger, aging) = (Linger::default(), Aging::default());
            let requests = Arc::new(Requests {
                stack: stack.clone(),
                settings: settings.clone(),
                bounds,
                linger: linger.clone(),
                aging: aging.clone(),
                stop: stop.clone(),
                connection: entry.0.clone(),
            });
            let service = service_fn(move |request| requests.clone().answer(request));
            let (own, protocol, acceptor) = (entry.0.clone(), protocol.clone(), acceptor.clone());
            let header_timeout = settings.header_timeout;
            let connection = async move {
                let stream = shaken(stream, acceptor, header_timeout).await?;
                let stop = own.stop();
                let stream = Staged::new(Socket::new(stream, header_timeout, own), linger, bounds);
                let stream = TokioIo::new(stream);
                age.serve(protocol.serve_connection(stream, service).into_owned(), aging, stop).await
            };
            connections.spawn(async move {
                tokio::select! {
                    ended = connection => {
                        if let Err(error) = ended {
                            tracing::debug!(error, "connection ended early");
                        }
                    }
                    () = entry.0.cut() => {}
                }
                drop(entry);
            });
        };
        let accept = async || {
            let stream = server::accept(&listener).await?;
            // This fails if the client has already left.
            let peer = stream.peer_addr().ok()?;
            Some((stream, open.enter(peer.ip(), &draining, &cut).await?))
        };
        loop {
            tokio::select! {
                accepted = accept() => accepted.into_iter().for_each(&serve),
                () = shutdown.cancelled() => break,
            }
        }
        stop.announce();
        let taken = Instant::now() + BACKLOG;
        while let Ok(accepted) = tokio::time::timeout_at(taken, accept()).await {
            accepted.into_iter().for_each(&serve);
        }
        drop(listener);
        if !open.is_empty() {
            tokio::time::sleep(LAST_REQUESTS).await;
        }
        draining.cancel();
        connections.close();
        let drain = stop.drain(drain);
        let drained = async {
            tokio::select! {
                () = connections.wait() => {}
                () = gateway.streams.close(drain) => {}
            }
        };
        if tokio::time::timeout(drain, drained).await.is_err() {
            tracing::warn!(?drain, "requests still running at the end of the drain were cancelled");
        }
        cut.cancel();
    }
}

fn protocol(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(settings.max_header_bytes)
        .max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// Completes the TLS handshake, if TLS is configured, and returns the connection.
async fn shaken(
    stream: TcpStream,
    acceptor: Option<Acceptor>,
    limit: Duration,
) -> io::Result<Either<TcpStream, TlsStream<TcpStream>>> {
    match acceptor {
        Some(acceptor) => Ok(Either::Right(tokio::time::timeout(limit, acceptor.accept(stream)).await??)),
        None => Ok(Either::Left(stream)),
    }
}
