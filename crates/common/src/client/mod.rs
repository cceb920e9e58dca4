//! How souk's services call each other: deadline, request id, trace context, service token, and retries within a
//! budget where the contract says that a method may be repeated.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use tonic::{Code, Status, body::Body, transport::Endpoint};
use tower::{
    Service, ServiceExt,
    retry::budget::{Budget, TpsBudget},
};
use tracing::Instrument;

use crate::{
    auth::ServiceTokens,
    context::{GRPC_TIMEOUT, REQUEST_ID, RequestContext, format_timeout},
    contract::Contract,
    error::Problem,
    telemetry,
};

/// Settings of calls to one other service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it is, for example `http://inventory:9000`.
    pub address: String,
    /// How long a call may take at most, with its retries. A caller's shorter deadline goes first.
    #[serde(with = "crate::config::duration")]
    pub timeout: Duration,
    /// How long making a connection may take.
    #[serde(with = "crate::config::duration")]
    pub connect_timeout: Duration,
}

/// An address that cannot be called.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` is not an address of a service: it must look like http://host:port")]
pub struct AddressError {
    address: String,
    #[source]
    source: tonic::transport::Error,
}

/// Calls to one other service. Connects at the first call and again whenever the connection is lost.
#[derive(Clone)]
pub struct Client {
    channel: tonic::transport::Channel,
    tokens: Option<ServiceTokens>,
    contract: Arc<Contract>,
    timeout: Duration,
    budget: Arc<TpsBudget>,
}

const MAX_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

impl Client {
    /// Calls in the name of a service. Without tokens, calls are anonymous.
    ///
    /// # Errors
    /// Where the address is not one.
    pub fn new(config: &Config, contract: &Arc<Contract>, tokens: Option<ServiceTokens>) -> Result<Self, AddressError> {
        let endpoint = Endpoint::from_shared(config.address.clone())
            .map_err(|source| AddressError { address: config.address.clone(), source })?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Ok(Self {
            channel: endpoint.connect_lazy(),
            tokens,
            contract: contract.clone(),
            timeout: config.timeout,
            // At most a fifth of the calls may be repeats, and 10 a second where there are few calls.
            budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2)),
        })
    }

    async fn send(self, mut request: Request<Body>) -> Response<Body> {
        let context = RequestContext::current().unwrap_or_else(RequestContext::background);
        let started = Instant::now();
        let deadline = started + context.remaining(self.timeout);
        let method = self.contract.method(request.uri().path()).cloned();
        let span = match &method {
            Some(method) => telemetry::span::client(&method.service, &method.name),
            None => tracing::Span::none(),
        };
        if let Err(status) = self.dress(&mut request, &context, &span) {
            return status.into_http();
        }
        let repeatable = method.as_ref().is_some_and(|method| {
            method.idempotent && !method.descriptor.is_client_streaming() && !method.descriptor.is_server_streaming()
        });
        let response = match tokio::time::timeout_at(deadline.into(), async {
            if repeatable { self.repeat(request, deadline).await } else { self.once(request, deadline).await }
        })
        .instrument(span.clone())
        .await
        {
            Ok(response) => response,
            Err(_) => late().into_http(),
        };
        if let Some(method) = method {
            let code = code_of(&response);
            telemetry::metrics::rpc_client(method.service.clone(), method.name.clone(), code, started.elapsed());
            telemetry::span::record_code(&span, code, false);
        }
        response
    }

    /// Puts on what every call carries.
    fn dress(&self, request: &mut Request<Body>, context: &RequestContext, span: &tracing::Span) -> Result<(), Status> {
        let headers = request.headers_mut();
        if let Some(id) = context.request_id_header() {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(tokens) = &self.tokens {
            let bearer = tokens.bearer().map_err(|error| Problem::internal().caused_by(error))?;
            headers.insert(AUTHORIZATION, bearer);
        }
        telemetry::propagation::inject(span, headers);
        Ok(())
    }

    /// Sends a call that may be repeated: again after UNAVAILABLE, within the budget and the deadline.
    async fn repeat(&self, request: Request<Body>, deadline: Instant) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(status) => return status.into_http(),
        };
        self.budget.deposit();
        let mut pause = FIRST_PAUSE;
        for tries in 1.. {
            let request = Request::from_parts(parts.clone(), whole(bytes.clone()));
            let response = self.once(request, deadline).await;
            let again = code_of(&response) == Code::Unavailable && tries < MAX_TRIES;
            if !again || Instant::now() + pause >= deadline || !self.budget.withdraw() {
                return response;
            }
            // Jitter, so that those who failed together do not come back together.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause *= 4;
        }
        Status::from(Problem::internal()).into_http()
    }

    async fn once(&self, mut request: Request<Body>, deadline: Instant) -> Response<Body> {
        let left = deadline.saturating_duration_since(Instant::now());
        request.headers_mut().insert(GRPC_TIMEOUT, format_timeout(left));
        let mut channel = self.channel.clone();
        let answer = match channel.ready().await {
            Ok(channel) => channel.call(request).await,
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "call failed before an answer");
            if timed_out(&error) {
                return late().into_http();
            }
            Status::unavailable("the service cannot be reached").into_http()
        })
    }
}

/// The channel keeps the deadline, too, and may be the first to notice.
fn timed_out(error: &tonic::transport::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn late() -> Status {
    Status::deadline_exceeded("the call took longer than its deadline")
}

/// The gRPC code that the headers give: what they say, or OK where the answer is still to come.
fn code_of(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes))
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The channel is asked when the call is made: each call has a deadline of its own to wait within.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { Ok(client.send(request).await) })
    }
}
