//! One HTTP/2 connection to one address. hyper's own rather than tonic's `Channel`: that one reconnects behind its
//! caller's back and hides when a connection is lost, and each call through it hops over one task more.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, Version, header::USER_AGENT, uri::PathAndQuery};
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::{Code, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::Service;

use super::address::Origin;
use crate::local::{Local, Served, Stopped};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const OURSELVES: HeaderValue = HeaderValue::from_static(concat!("souk/", env!("CARGO_PKG_VERSION")));

/// A connection that calls can share.
#[derive(Clone)]
pub(super) struct Connection {
    way: Way,
    cut: CancellationToken,
}

#[derive(Clone)]
enum Way {
    Network { sender: http2::SendRequest<Body>, origin: Uri },
    Local(Served),
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Network(#[from] hyper::Error),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Serving,
    NotServing,
    /// It said nothing, or nothing of use.
    Silent,
}

impl Connection {
    /// Connects. The task ends when no further call can be sent; calls under way go on without it.
    pub(super) async fn open(
        address: SocketAddr,
        origin: &Origin,
        local: &Local,
    ) -> Result<(Self, JoinHandle<()>), BoxError> {
        // Over TLS, both sides say who they are; that is not left out for a short way.
        if origin.tls.is_none()
            && let Some(served) = local.find(address).await
        {
            let served = served?;
            let cut = served.stopped().child_token();
            let task = tokio::spawn(cut.clone().cancelled_owned());
            return Ok((Self { way: Way::Local(served), cut }, task));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let cut = CancellationToken::new();
        let mut builder = http2::Builder::new(Tasks(cut.clone()));
        builder.timer(TokioTimer::new()).adaptive_window(true);
        let stream = match &origin.tls {
            Some(tls) => Either::Right(tls.connect(stream).await?),
            None => Either::Left(stream),
        };
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let running = cut.clone().run_until_cancelled_owned(connection);
        let task = tokio::spawn(async move {
            if let Some(Err(error)) = running.await {
                tracing::debug!(%address, error = &error as &dyn std::error::Error, "a connection was lost");
            }
        });
        let way = Way::Network { sender, origin: origin.uri.clone() };
        Ok((Self { way, cut }, task))
    }

    /// Whether no call can be sent any more: it is lost, or the server has said goodbye.
    pub(super) fn is_closed(&self) -> bool {
        match &self.way {
            Way::Network { sender, .. } => sender.is_closed(),
            Way::Local(_) => self.cut.is_cancelled(),
        }
    }

    /// Ends it with all its calls: nobody answers there.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Asks the server how it is (`grpc.health.v1`). One that does not know the question is well.
    pub(super) async fn check(&self, patience: Duration) -> Health {
        let mut client = HealthClient::new(self.clone());
        match tokio::time::timeout(patience, client.check(HealthCheckRequest::default())).await {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Health::Serving,
            Ok(Ok(_)) => Health::NotServing,
            Ok(Err(status)) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => Health::Serving,
            Ok(Err(_)) | Err(_) => Health::Silent,
        }
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, CallError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &mut self.way {
            Way::Network { sender, .. } => sender.poll_ready(context).map_err(CallError::from),
            Way::Local(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(USER_AGENT, OURSELVES);
        match &mut self.way {
            Way::Network { sender, origin } => {
                let mut target = origin.clone().into_parts();
                target.path_and_query =
                    request.uri().path_and_query().cloned().or_else(|| Some(PathAndQuery::from_static("/")));
                if let Ok(uri) = Uri::from_parts(target) {
                    *request.uri_mut() = uri;
                }
                let sent = sender.send_request(request);
                Box::pin(async move { Ok(sent.await?.map(Body::new)) })
            }
            Way::Local(_) if self.cut.is_cancelled() => Box::pin(std::future::ready(Err(Stopped.into()))),
            Way::Local(served) => {
                let answered = served.call(request);
                Box::pin(async move { Ok(answered.await) })
            }
        }
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
