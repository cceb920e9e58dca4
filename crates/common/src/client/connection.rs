//! One HTTP/2 connection to one address. This uses hyper's client instead of tonic's `Channel`: a `Channel` reconnects
//! on its own without reporting that the connection was lost, and each call passes through one more task.

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

/// A connection that calls share.
#[derive(Clone)]
pub(super) struct Connection {
    sender: http2::SendRequest<Body>,
    origin: Uri,
    /// The server, if it runs in this process.
    local: Option<Served>,
    cut: CancellationToken,
}

/// The reason why a call has no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Network(#[from] hyper::Error),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The way a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server sent a GOAWAY: it is stopping, or the connection reached its maximum age.
    Goodbye,
    /// The connection ended without a GOAWAY, or it was cut.
    Lost,
}

/// The health of a server, as the server reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    NotServing,
    /// The server did not respond, or the response was unusable.
    Silent,
}

impl Connection {
    /// Connects. The returned task ends with the way the connection ended, as soon as no further call can be sent.
    /// Running calls continue after that.
    pub(super) async fn open(address: SocketAddr, origin: &Origin) -> Result<(Self, JoinHandle<Ended>), BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let cut = CancellationToken::new();
        let mut builder = http2::Builder::new(Tasks(cut.clone()));
        // No adaptive window: its initial size is so small that h2 treats a hundred short concurrent responses as an
        // attack (`too_many_data_frames`), and it grows only with large responses.
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

    /// Uses the direct path to a server of this process, if the address has one. Not called before the server has
    /// answered over the network.
    pub(super) fn shortened(&mut self, address: SocketAddr, origin: &Origin, local: &Local) {
        // With TLS both sides authenticate each other. The direct path must not bypass that.
        self.local = if origin.tls.is_none() { local.find(address) } else { None };
    }

    /// True if no further call can be sent: the connection is lost, or the server has sent a GOAWAY.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes the connection with all its calls, because the server no longer responds.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Makes a unary call.
    pub(super) async fn unary(&self, mut request: Request<Body>) -> Result<Response<Body>, CallError> {
        match &self.local {
            Some(local) => {
                request.headers_mut().insert(USER_AGENT, OURSELVES);
                Ok(local.clone().call(request).await?)
            }
            None => Ok(self.clone().call(request).await?),
        }
    }

    /// Checks the server's health (`grpc.health.v1`). A server that does not implement the check, or refuses it, counts
    /// as healthy: it is running.
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

/// True if this error code of a health check can only come from a running server.
fn is_an_answer(code: Code) -> bool {
    matches!(code, Code::Unimplemented | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied)
}

/// Converts a response that is not gRPC, such as a proxy's error page, to the gRPC status for its HTTP status
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>). Its body must not be read as a
/// message.
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

/// Runs the tasks of a connection until the connection is cut.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}
