//! Calls between souk's services: deadline, request id, trace context and service token; health checks of addresses;
//! retries within a budget, if the contract allows a method to be repeated.
//!
//! [`Client`] adds the headers of a call, `call` sends it and repeats it, `backend` picks the address for each try,
//! `link` keeps the addresses connected and checks their health.

mod address;
mod backend;
mod call;
mod connection;
mod link;
mod outlier;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, header::AUTHORIZATION};
use serde::Deserialize;
use tonic::{Code, Status, body::Body};
use tower::{Service, retry::budget::TpsBudget};
use tracing::Instrument;

pub use self::address::{AddressError, one_or_several};
use self::{backend::Backend, call::Call};
pub use crate::telemetry::addresses::AddressState;
use crate::{
    auth::ServiceTokens,
    context::{REQUEST_ID, RequestContext},
    contract::Contract,
    error::Problem,
    local::Local,
    telemetry,
    tls::ClientTls,
};

/// Settings of calls to one other service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The service's address, for example `http://inventory:9000`, or several addresses separated by commas. A host
    /// name may resolve to several addresses. It is resolved at regular intervals.
    #[serde(deserialize_with = "one_or_several")]
    pub address: String,
    /// The maximum duration of a call with its retries. A shorter deadline of the caller overrides it.
    #[serde(with = "crate::config::duration")]
    pub timeout: Duration,
    /// The timeout of opening a connection.
    #[serde(with = "crate::config::duration")]
    pub connect_timeout: Duration,
    /// TLS settings for `https://…` addresses: `[client.tls]`, the same for every service.
    #[serde(skip)]
    pub tls: ClientTls,
    /// The servers of this process, which can be called without the network.
    #[serde(skip)]
    pub local: Local,
}

/// A client of one other service. It connects at once, and reconnects whenever a connection is lost.
#[derive(Clone)]
pub struct Client {
    backend: Arc<Backend>,
    tokens: Option<ServiceTokens>,
    contract: Arc<Contract>,
    timeout: Duration,
    budget: Arc<TpsBudget>,
}

/// About the longest timeout that `grpc-timeout` can express in milliseconds.
const LONGEST_STREAM: Duration = Duration::from_secs(24 * 3600);

impl Client {
    /// Creates a client that authenticates with these tokens. Without tokens, calls are anonymous. Must be called in a
    /// tokio runtime.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn new(config: &Config, contract: &Arc<Contract>, tokens: Option<ServiceTokens>) -> Result<Self, AddressError> {
        let origins = address::parse(&config.address, &config.tls)?;
        Ok(Self {
            backend: Arc::new(Backend::new(origins, config.connect_timeout, config.local.clone())),
            tokens,
            contract: contract.clone(),
            timeout: config.timeout,
            // At most a fifth of the calls may be retries, plus 10 a second so that retries are possible when calls are
            // few.
            budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2)),
        })
    }

    /// A client that uses the same connections and authenticates with these tokens.
    #[must_use]
    pub fn in_the_name_of(mut self, tokens: ServiceTokens) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Checks the health of every address of the service, each within `timeout`.
    pub async fn check(&self, timeout: Duration) -> Vec<(SocketAddr, AddressState)> {
        self.backend.check(timeout).await
    }

    async fn send(self, mut request: Request<Body>) -> Response<Body> {
        let context = request.extensions_mut().remove::<RequestContext>().or_else(RequestContext::current);
        let context = context.unwrap_or_else(RequestContext::background);
        let started = Instant::now();
        let method = self.contract.method(request.uri().path()).cloned();
        let streams = method
            .as_ref()
            .is_some_and(|method| method.descriptor.is_client_streaming() || method.descriptor.is_server_streaming());
        // The caller decides how long a stream lasts. The timeout applies to single responses only.
        let usual = method.as_ref().and_then(|method| method.deadline).unwrap_or(self.timeout);
        let deadline = started + context.remaining(if streams { LONGEST_STREAM } else { usual });
        let span = match &method {
            Some(method) => telemetry::span::client(&method.service, &method.name),
            None => tracing::Span::none(),
        };
        if let Err(status) = self.add_headers(&mut request, &context, &span) {
            return status.into_http();
        }
        let call = Call::new(&self.backend, &self.budget, method.as_deref(), deadline.into());
        let response = call.send(request).instrument(span.clone()).await.into_response();
        if let Some(method) = method {
            let code = call::code_of(response.headers()).unwrap_or(Code::Ok);
            telemetry::metrics::rpc_client(method.service.clone(), method.name.clone(), code, started.elapsed());
            telemetry::span::record_code(&span, code, false);
        }
        response
    }

    /// Adds the headers that every call has: request id, token and trace context.
    fn add_headers(
        &self,
        request: &mut Request<Body>,
        context: &RequestContext,
        span: &tracing::Span,
    ) -> Result<(), Status> {
        let bearer = match &self.tokens {
            Some(tokens) => {
                let service = request.uri().path().split('/').nth(1).unwrap_or_default();
                Some(tokens.bearer(service).map_err(|error| Problem::internal().caused_by(error))?)
            }
            None => None,
        };
        let headers = request.headers_mut();
        if let Some(id) = context.request_id_header() {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(bearer) = bearer {
            headers.insert(AUTHORIZATION, bearer);
        }
        telemetry::propagation::inject(span, headers);
        Ok(())
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Always ready: the connection is chosen in `call`, so that each call waits within its own deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { Ok(client.send(request).await) })
    }
}

#[cfg(test)]
mod tests;
