//! The edge of a service: the processing of every request before and after the service's own code.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header::ALLOW};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, transport::server::TcpConnectInfo};
use tower::{Layer, Service};

use super::{Config, ended, message, overloaded, stop};
use crate::{
    auth::{Caller, Identified, Identity, Recheck, Verifier},
    context::{self, REQUEST_ID, RequestContext},
    contract::{Contract, Method},
    error::{Problem, Reason, chain},
    framing::{self, Coding, GRPC_ENCODING},
    quota::{Held, Quota},
    telemetry,
    tls::PeerCertificate,
};

/// Bytes that each request counts in addition to its message while it is received: headers and stream state.
pub(super) const REQUEST_BYTES: usize = 4096;

/// Paths that belong to no contract and are open to everyone who can reach the port: health and reflection.
const OPEN: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
/// Probes: the only open paths that are not streams. The server must answer them no matter how many streams are open
/// and how busy it is.
const PROBES: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"];
/// The maximum number of probes that are answered at a time.
const MAX_PROBES: usize = 256;
/// The timeout of a probe. Probes need no database.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The tower layer that adds the edge to a service.
#[derive(Clone)]
pub struct EdgeLayer(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    contract: Arc<Contract>,
    verifier: Arc<Verifier>,
    recheck: Option<Arc<dyn Recheck>>,
    permits: Semaphore,
    streams: Arc<Semaphore>,
    health_streams: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    deadline: Duration,
    max_request_bytes: usize,
    receive_timeout: Duration,
    /// Counts the bytes of requests that are being received.
    receiving: Arc<Quota>,
    /// Cancelled when the server drains.
    draining: CancellationToken,
    /// Samples the log lines about requests that were refused because resources ran out.
    refusals: telemetry::Sampled,
}

impl EdgeLayer {
    /// Creates the edge of the service called `name` from the `[server]` settings.
    pub fn new(
        config: &Config,
        name: Arc<str>,
        contract: Arc<Contract>,
        verifier: Arc<Verifier>,
        recheck: Option<Arc<dyn Recheck>>,
        draining: CancellationToken,
    ) -> Self {
        let receiving = u64::try_from(config.max_receiving_bytes).unwrap_or(u64::MAX);
        Self(Arc::new(Shared {
            name,
            contract,
            verifier,
            recheck,
            permits: Semaphore::new(config.max_concurrent_requests),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            health_streams: Arc::new(Semaphore::new(config.max_health_streams)),
            probes: Arc::new(Semaphore::new(MAX_PROBES)),
            deadline: config.deadline,
            max_request_bytes: config.max_request_bytes,
            receive_timeout: config.receive_timeout,
            // One address can hold at most half of the budget, so that other addresses always have room.
            receiving: Quota::new(receiving, receiving / 2),
            draining,
            refusals: telemetry::Sampled::new(),
        }))
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Edge { shared: self.0.clone(), inner }
    }
}

/// A service with the edge around it.
#[derive(Clone)]
pub struct Edge<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        if request.method() != http::Method::POST {
            return Box::pin(std::future::ready(Ok(only_post())));
        }
        let shared = self.shared.clone();
        let path = request.uri().path();
        if OPEN.iter().any(|open| path.starts_with(open)) {
            return Box::pin(async move {
                let answer = shared.handle_open(inner, request).await;
                Ok(answer.unwrap_or_else(|problem| Status::from(problem).into_http()))
            });
        }
        Box::pin(async move { Ok(shared.handle(inner, request).await) })
    }
}

impl Shared {
    /// Handles requests to the [`OPEN`] paths. They have budgets of their own.
    async fn handle_open<S>(&self, mut inner: S, request: Request<Body>) -> Result<Response<Body>, Problem>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
        S::Future: Send,
    {
        let (budget, limit) = match PROBES.contains(&request.uri().path()) {
            true => (&self.probes, PROBE_TIMEOUT),
            // For a stream, the deadline limits only the time until the stream begins.
            false => (&self.health_streams, self.deadline),
        };
        let place = budget.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let request = framing::inflated(request, self.max_request_bytes)?;
        let Ok(Ok(response)) = tokio::time::timeout(limit, inner.call(request)).await else { return Err(late()) };
        Ok(stop::bound(response, &self.draining, place))
    }

    async fn handle<S>(&self, mut inner: S, mut request: Request<Body>) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
        S::Future: Send,
    {
        let Some(method) = self.contract.method(request.uri().path()) else {
            let message = format!("{} is not a method of souk", request.uri().path());
            return Status::from(Problem::new(Reason::Unimplemented, message)).into_http();
        };
        let context = RequestContext::from_headers(request.headers(), self.deadline);
        let span = telemetry::span::server(&self.name, &method.service, &method.name, request.headers());
        span.span().record("request_id", &*context.request_id);
        let started = Instant::now();
        let _running = telemetry::metrics::rpc_in_flight(method.service.clone());
        let limit = context.remaining(self.deadline);
        let work = async {
            context::timeout(request.headers())?;
            let caller = self.admit(method, &mut request).await?;
            let mut receiving = self.receive(&request)?;
            let limit = method.request_limit(self.max_request_bytes);
            let received = if method.descriptor.is_client_streaming() {
                request = framing::inflated(request, limit)?;
                None
            } else {
                let coding = Coding::of_messages(request.headers())?;
                let body = std::mem::replace(request.body_mut(), Body::empty());
                let bounds = message::Bounds { limit, time: self.receive_timeout, held: receiving.as_mut() };
                Some((coding, message::read(body, bounds).await?))
            };
            // The permit is acquired this late on purpose: a client that has no valid token, or does not send its whole
            // message, must not keep other requests from being served.
            let _permit = self.permits.try_acquire().map_err(|_| overloaded())?;
            drop(receiving);
            if let Some((coding, bytes)) = received {
                request.headers_mut().remove(GRPC_ENCODING);
                *request.body_mut() = message::check(&self.contract, method, coding, bytes, limit)?;
            }
            if !method.descriptor.is_server_streaming() {
                let Ok(response) = inner.call(request).await;
                return Ok(response);
            }
            // The permit is held only while the request is handled. A stream may continue for a day after that.
            let place = self.streams.clone().try_acquire_owned().map_err(|_| overloaded())?;
            let Ok(response) = inner.call(request).await;
            Ok(response.map(|body| ended::cut(body, self.verifier.over(&caller), place)))
        };
        let work = AssertUnwindSafe(context.clone().scope(tokio::time::timeout(limit, work))).catch_unwind();
        let mut response = match span.run(work).await {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(status))) => Status::into_http(status),
            Ok(Err(_)) => Status::from(late()).into_http(),
            Err(panic) => Status::from(Problem::internal().caused_by(panic_text(&*panic))).into_http(),
        };
        let code = span.span().in_scope(|| self.settle(method, &response, started.elapsed()));
        telemetry::span::record_code(span.span(), code, true);
        if let Some(id) = context.request_id_header() {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    /// Counts a request until its message has arrived. `None`: the request comes from this process and is complete.
    fn receive(&self, request: &Request<Body>) -> Result<Option<Held>, Problem> {
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        peer.map(|peer| self.receiving.take(peer.ip(), REQUEST_BYTES as u64).ok_or_else(overloaded)).transpose()
    }

    /// Identifies the caller, checks the method's access rule, and stores the [`Caller`] in the request's extensions.
    /// Returns the identity.
    async fn admit(&self, method: &Method, request: &mut Request<Body>) -> Result<Identified, Status> {
        // A service whose methods lack a rule does not start. If such a method is reached nevertheless, access is
        // denied.
        let rule =
            method.access.as_ref().ok_or_else(|| Problem::new(Reason::AccessDenied, "nobody may call this method"))?;
        let mut caller = self.verifier.identify_for_long(request.headers()).await?;
        caller.identity.check_audience(&method.service)?;
        check_certificate(request, &caller.identity)?;
        if let Some(recheck) = self.recheck.as_ref().filter(|_| !rule.public) {
            caller.identity = recheck.now(caller.identity).await?;
        }
        let grant = self.verifier.admit(rule, &caller.identity)?;
        let recent_log_in = self.verifier.is_recent(&caller.identity);
        request.extensions_mut().insert(Caller { identity: caller.identity.clone(), grant, recent_log_in });
        Ok(caller)
    }

    /// Counts the response, and logs it if it is a bug. This is the only place where errors are logged. Refusals
    /// because of a lack of resources can come by the thousand, so one log line reports all refusals since the last
    /// line.
    fn settle(&self, method: &Method, response: &Response<Body>, elapsed: Duration) -> Code {
        let status = response.extensions().get::<Status>();
        let header = || response.headers().get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()));
        let code = status.map(Status::code).or_else(header).unwrap_or(Code::Ok);
        telemetry::metrics::rpc_server(method.service.clone(), method.name.clone(), code, elapsed);
        let cause = status.and_then(std::error::Error::source).map(chain);
        let message = status.map(Status::message);
        match code {
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::error!(?code, ?elapsed, cause, message, "request failed");
            }
            Code::ResourceExhausted => {
                let reason = status.map_or("RESOURCE_EXHAUSTED", |status| Problem::from_status(status).reason_name());
                if let Some(refused) = self.refusals.count(reason) {
                    tracing::warn!(refused, reason, cause, message, "requests refused");
                }
                tracing::debug!(?code, ?elapsed, cause, message, "request done");
            }
            Code::Unavailable | Code::DeadlineExceeded => {
                tracing::warn!(?code, ?elapsed, cause, message, "request refused");
            }
            _ => tracing::debug!(?code, ?elapsed, cause, "request done"),
        }
        code
    }
}

/// Checks a service's token against the client certificate of its connection. Every service has the secret that tokens
/// are signed with, but no service has the private key of another one.
fn check_certificate(request: &Request<Body>, identity: &Identity) -> Result<(), Problem> {
    let Identity::Service { name, .. } = identity else { return Ok(()) };
    match request.extensions().get::<PeerCertificate>() {
        Some(certificate) if !certificate.is_for(name) => {
            let message =
                format!("the token is of the service {name}, and the client's certificate is not for that name");
            Err(Problem::new(Reason::TokenInvalid, message))
        }
        _ => Ok(()),
    }
}

/// gRPC only uses POST. Other methods get a plain HTTP response, because no gRPC client sends them.
fn only_post() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

fn late() -> Problem {
    Problem::new(Reason::DeadlineExceeded, "the request took longer than its deadline")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "without a message".to_owned()))
}
