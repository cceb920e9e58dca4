//! Accepts connections, HTTP/1.1 and HTTP/2 on one port, and lets them end in peace.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Version, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use souk_common::{
    client::AddressError,
    contract::{Contract, ContractError},
    server::{self, Age, Aging},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

use crate::{
    address::Peer,
    cache::follow::Log,
    config::{Config, Settings},
    connection::{self, Bounds, Linger, Staged},
    foreign::{self, ForeignError},
    gateway::Gateway,
    routes::{RouteError, TooLong},
    tls::{Acceptor, Tls, TlsError},
    transcode::BindingError,
    upstream::UpstreamError,
};

/// What keeps the gateway from being put together.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contract cannot be served.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// A route cannot be served.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A method accepts requests that are too long to be sent.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A method cannot be called with Connect.
    #[error(transparent)]
    Connect(#[from] BindingError),
    /// A backend cannot be called.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Nobody said where the keys are that tokens are checked with.
    #[error("gateway.keys_from is `{0}`, and gateway.backends does not say where that is")]
    Keys(String),
    /// The address of the service that has the keys is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The certificate towards clients cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A contract that is not souk's own cannot be served.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// What is shared with other gateways cannot be.
    #[error("gateway.redis_url cannot be used")]
    Redis(#[from] redis::RedisError),
    /// The descriptors cannot be offered by reflection.
    #[error("reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Requests that one HTTP/2 connection may have open.
const STREAMS: u32 = 256;
/// Header fields that an HTTP/1.1 request may have.
const HEADERS: usize = 100;
/// How long connections that the system has made before a gateway stops are still taken: closing their listener would
/// reset them.
const BACKLOG: Duration = Duration::from_millis(20);
/// How long idle connections stay open then. Closing one resets the request that its client may just be sending; in this
/// time who keeps sending is told by an answer to send no more.
const LAST_REQUESTS: Duration = Duration::from_millis(100);
/// A client that is silent for this long is asked whether it is still there, and has as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Serves souk's contract, or the one that the settings name, until `shutdown`, then lets running requests end for the configured time.
///
/// # Errors
/// Before anything is served, where the contract or the settings do not allow it.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    if config.settings.contract.is_foreign() {
        let gateway = tokio::select! {
            gateway = foreign::gateway(config) => gateway?,
            // It waits for backends that are still starting.
            () = shutdown.cancelled() => return Ok(()),
        };
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
    /// Serves until `shutdown`, then lets running requests end for the configured time.
    pub async fn serve(mut self, listener: TcpListener, shutdown: CancellationToken) {
        let (drain, stop) = (self.config.common.server.drain, self.config.common.server.stop.clone());
        let settings = self.config.settings.clone();
        let bounds = Bounds::of(&self.config);
        let tls = self.tls.take();
        if let Some(shared) = &self.shared {
            shared.connect().await;
        }
        // Cuts off what still runs at the end of the drain, and ends what runs beside the requests.
        let cut = CancellationToken::new();
        let _cut = cut.clone().drop_guard();
        if let Some(cache) = &self.cache {
            for log in Log::all(&self.contract, cache, |method| self.upstreams.own(method)) {
                tokio::spawn(log.follow(cache.clone(), cut.clone()));
            }
        }
        let gateway = Arc::new(self);
        let protocol = protocol(&settings);
        let age = Age::of(&gateway.config.common.server);
        // Asks every connection to end, and waits until all have.
        let (draining, connections) = (CancellationToken::new(), TaskTracker::new());
        let acceptor = tls.as_ref().map(Tls::acceptor);
        let following = cut.clone();
        tokio::spawn(async move {
            if let Some(tls) = tls {
                following.run_until_cancelled(tls.follow()).await;
            }
        });
        let places = Arc::new(Semaphore::new(settings.max_connections));
        let serve = |(stream, place): (TcpStream, OwnedSemaphorePermit)| {
            // Fails where the client has left already.
            let Ok(peer) = stream.peer_addr() else { return };
            let (gateway, stop) = (gateway.clone(), stop.clone());
            let (linger, aging) = (Linger::default(), Aging::default());
            let (lingering, aged) = (linger.clone(), aging.clone());
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                let (gateway, linger, aged, stop, version) =
                    (gateway.clone(), linger.clone(), aged.clone(), stop.clone(), request.version());
                request.extensions_mut().insert(Peer(peer.ip()));
                aged.request(version);
                async move {
                    let mut response = connection::answer(&gateway, request, bounds, &linger).await;
                    aged.response(response.headers_mut());
                    if version < Version::HTTP_2 && stop.announced().is_cancelled() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let (draining, protocol, acceptor) = (draining.clone(), protocol.clone(), acceptor.clone());
            let header_timeout = settings.header_timeout;
            let connection = async move {
                let stream = shaken(stream, acceptor, header_timeout).await?;
                let stream = Staged::new(Prompt::new(stream, header_timeout), lingering, bounds);
                let stream = TokioIo::new(stream);
                age.serve(protocol.serve_connection(stream, service).into_owned(), aging, draining).await
            };
            let cut = cut.clone();
            connections.spawn(async move {
                tokio::select! {
                    ended = connection => {
                        if let Err(error) = ended {
                            tracing::debug!(error, "a connection ended early");
                        }
                    }
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        };
        loop {
            tokio::select! {
                accepted = accept(&listener, &places) => accepted.into_iter().for_each(&serve),
                () = shutdown.cancelled() => break,
            }
        }
        stop.announce();
        let taken = Instant::now() + BACKLOG;
        while let Ok(accepted) = tokio::time::timeout_at(taken, accept(&listener, &places)).await {
            accepted.into_iter().for_each(&serve);
        }
        drop(listener);
        if places.available_permits() < settings.max_connections {
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
            tracing::warn!(?drain, "requests still running at the end of the drain were cut off");
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
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// The next connection, once there is a place for it. `None`: this one failed, others may come.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    Some((server::accept(listener).await?, place))
}

/// The connection, after the handshake where there is one.
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

/// A connection whose first bytes must come soon. Until they have told HTTP/1.1 from HTTP/2, no timeout of either
/// runs, and a client that says nothing would hold its place for ever.
struct Prompt<S> {
    stream: S,
    /// Bytes still to come, and until when.
    waiting: Option<(usize, Pin<Box<Sleep>>)>,
}

/// Length of HTTP/2's preface: with it, the protocol is known.
const PREFACE: usize = 24;

impl<S> Prompt<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, waiting: Some((PREFACE, Box::pin(tokio::time::sleep(limit)))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        if let Some((missing, deadline)) = &mut self.waiting {
            match polled {
                Poll::Ready(_) if read >= *missing => self.waiting = None,
                Poll::Ready(_) => *missing -= read,
                Poll::Pending if deadline.as_mut().poll(context).is_ready() => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent no request")));
                }
                Poll::Pending => {}
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
