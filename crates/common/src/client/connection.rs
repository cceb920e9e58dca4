//! One HTTP/2 connection to one address. hyper's own rather than tonic's `Channel`: that one reconnects behind its
//! caller's back and hides when a connection is lost, and each call through it hops over one task more.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header::USER_AGENT, uri::PathAndQuery};
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::{Code, Status, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::Service;

use super::address::Origin;
use crate::local::{Local, Served, Stopped};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const OURSELVES: HeaderValue = HeaderValue::from_static(concat!("souk/", env!("CARGO_PKG_VERSION")));

/// A connection that calls can share.
#[derive(Clone)]
pub(super) struct Connection {
    sender: http2::SendRequest<Body>,
    origin: Uri,
    /// The server itself, if it runs in this process.
    local: Option<Served>,
    cut: CancellationToken,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Network(#[from] hyper::Error),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server sent a GOAWAY: it stops, or the connection is old.
    Goodbye,
    /// Without a word, or it was cut.
    Lost,
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    NotServing,
    /// No response, or an unusable one.
    Silent,
}

impl Connection {
    /// Connects. The task ends when no further call can be sent, and says how; calls under way continue without it.
    pub(super) async fn open(address: SocketAddr, origin: &Origin) -> Result<(Self, JoinHandle<Ended>), BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let cut = CancellationToken::new();
        let mut builder = http2::Builder::new(Tasks(cut.clone()));
        // No adaptive window: it begins so small that a hundred short answers at a time count as an attack (h2's
        // `too_many_data_frames`), and only large ones make it grow.
        builder.timer(TokioTimer::new());
        let stream = match &origin.tls {
            Some(tls) => Either::Right(tls.connect(stream).await?),
            None => Either::Left(stream),
        };
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let running = cut.clone().run_until_cancelled_owned(connection);
        let task = tokio::spawn(async move {
            match running.await {
                Some(Ok(())) => Ended::Goodbye,
                Some(Err(error)) => {
                    tracing::debug!(%address, error = &error as &dyn std::error::Error, "connection lost");
                    Ended::Lost
                }
                None => Ended::Lost,
            }
        });
        Ok((Self { sender, origin: origin.uri.clone(), local: None, cut }, task))
    }

    /// Takes the shorter way to a server of this process. One that has not answered yet may not be there either.
    pub(super) fn shortened(&mut self, address: SocketAddr, origin: &Origin, local: &Local) {
        // Over TLS both sides authenticate each other; a shortcut must not skip that.
        self.local = if origin.tls.is_none() { local.find(address) } else { None };
    }

    /// Whether no call can be sent any more: it is lost, or the server has said goodbye.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes it with all its calls: nobody answers there.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Makes a call of one message that is answered with one.
    pub(super) async fn unary(&self, mut request: Request<Body>) -> Result<Response<Body>, CallError> {
        match &self.local {
            Some(local) => {
                request.headers_mut().insert(USER_AGENT, OURSELVES);
                Ok(local.clone().call(request).await?)
            }
            None => Ok(self.clone().call(request).await?),
        }
    }

    /// Checks the server's health (`grpc.health.v1`). A server that does not implement the check, or does not allow it,
    /// counts as healthy: it runs.
    pub(super) async fn check(&self, timeout: Duration) -> Health {
        let mut client = HealthClient::new(self.clone());
        match tokio::time::timeout(timeout, client.check(HealthCheckRequest::default())).await {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Health::Serving,
            Ok(Ok(_)) => Health::NotServing,
            Ok(Err(status)) if is_an_answer(status.code()) => Health::Serving,
            Ok(Err(_)) | Err(_) => Health::Silent,
        }
    }
}

/// Whether the refusal of a health check is a running server's.
fn is_an_answer(code: Code) -> bool {
    matches!(code, Code::Unimplemented | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied)
}

/// A response that is not gRPC's, such as a proxy's page, as the status that gRPC has for it
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>): its body must not be read as a message.
fn as_grpc(response: Response<Body>) -> Response<Body> {
    let http = response.status();
    if http == StatusCode::OK || response.headers().contains_key("grpc-status") {
        return response;
    }
    let code = match http.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the server answered with HTTP status {http}, and not with gRPC")).into_http()
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut target = self.origin.clone().into_parts();
        target.path_and_query =
            request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
        if let Ok(uri) = Uri::from_parts(target) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(USER_AGENT, OURSELVES);
        let sent = self.sender.send_request(request);
        Box::pin(async move { Ok(as_grpc(sent.await?.map(Body::new))) })
    }
}

/// Runs a connection's tasks until it is cut.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}
