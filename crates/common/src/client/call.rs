//! One call: sends it to the best address, and repeats it on another one where that is allowed.

use std::{net::SocketAddr, sync::Mutex, sync::PoisonError, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::{BodyExt, Collected, Full};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status, body::Body};
use tower::{
    Service,
    retry::budget::{Budget, TpsBudget},
};

use super::{
    backend::{Backend, Lease},
    connection::CallError,
};
use crate::{
    context::{GRPC_TIMEOUT, format_timeout},
    contract::Method,
    error::{Problem, Reason},
    telemetry::metrics,
};

const MAX_TRIES: u32 = 4;
/// The pause before a retry if there is no other address. Each further pause is longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Hedging: a read-only call is also sent to a second address if the first one does not answer within this time.
const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// An address that does not answer within this time has failed. If a caller's deadline is shorter, the address does not
/// count as failed: callers must not be able to eject an address by short deadlines.
const FAIR: Duration = Duration::from_secs(1);
/// The retry delay that is sent to the client if no address can be reached.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A running call.
pub(super) struct Call<'a> {
    backend: &'a Backend,
    budget: &'a TpsBudget,
    method: Option<&'a Method>,
    deadline: Instant,
    tried: Mutex<Vec<SocketAddr>>,
}

/// The result of one try.
pub(super) enum Outcome {
    /// The service answered, with success or an error.
    Answered(Response<Body>),
    /// The service answered with `UNAVAILABLE`.
    Refused(Response<Body>),
    /// The request did not reach the service.
    Unsent(BoxError),
    /// The connection was lost before the response. The request may or may not have taken effect.
    Lost(BoxError),
    /// The deadline was exceeded.
    Late,
    /// No address is connected.
    Unreachable,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        backend: &'a Backend,
        budget: &'a TpsBudget,
        method: Option<&'a Method>,
        deadline: Instant,
    ) -> Self {
        Self { backend, budget, method, deadline, tried: Mutex::default() }
    }

    /// Sends the call, and repeats it if the contract allows that.
    pub(super) async fn send(&self, request: Request<Body>) -> Outcome {
        match self.method {
            Some(method) if !method.descriptor.is_client_streaming() => self.repeat(method, request).await,
            // The messages of a client stream are consumed by the first try, so they cannot be sent again.
            _ => self.once(request).await,
        }
    }

    async fn repeat(&self, method: &Method, request: Request<Body>) -> Outcome {
        let (parts, body) = request.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(status) => return Outcome::Answered(status.into_http()),
        };
        self.budget.deposit();
        let hedged = method.safe && !method.descriptor.is_server_streaming();
        let mut pause = FIRST_PAUSE;
        for tries in 1.. {
            let outcome =
                if hedged { self.hedged(&parts, &bytes).await } else { self.once(again(&parts, &bytes)).await };
            let allowed = match outcome {
                Outcome::Unsent(_) => true,
                Outcome::Lost(_) | Outcome::Refused(_) => method.idempotent,
                Outcome::Answered(_) | Outcome::Late | Outcome::Unreachable => false,
            };
            if !allowed || tries >= MAX_TRIES {
                return outcome;
            }
            let other = self.backend.has_other(&self.tried());
            if (!other && Instant::now() + pause >= self.deadline) || !self.budget.withdraw() {
                return outcome;
            }
            metrics::rpc_client_retry(method.service.clone(), method.name.clone(), "retry");
            if !other {
                // Jitter, so that calls that failed at the same time are not repeated at the same time.
                sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                pause *= 4;
            }
        }
        Outcome::Late
    }

    /// Sends a try, and a second one to another address if the first takes long. The first response counts.
    async fn hedged(&self, parts: &Parts, bytes: &Bytes) -> Outcome {
        let before = self.tried().len();
        let mut first = std::pin::pin!(self.once(again(parts, bytes)));
        if let Ok(outcome) = timeout(HEDGE_AFTER, &mut first).await {
            return outcome;
        }
        if !self.backend.has_other(&self.tried()) || !self.budget.withdraw() {
            return first.await;
        }
        if let Some(method) = self.method {
            metrics::rpc_client_retry(method.service.clone(), method.name.clone(), "hedge");
        }
        let slow = self.tried().get(before).copied();
        let second = std::pin::pin!(self.once(again(parts, bytes)));
        match select(first, second).await {
            Either::Left((Outcome::Answered(response), _)) => Outcome::Answered(response),
            Either::Left((_, second)) => second.await,
            Either::Right((Outcome::Answered(response), _)) => {
                slow.into_iter().for_each(|address| self.backend.failed(address));
                Outcome::Answered(response)
            }
            Either::Right((_, first)) => first.await,
        }
    }

    /// Sends one try, within the rest of the deadline.
    async fn once(&self, mut request: Request<Body>) -> Outcome {
        let tried = self.tried();
        let lease = match timeout_at(self.deadline, self.backend.acquire(&tried)).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Outcome::Unreachable,
            Err(_) => return Outcome::Late,
        };
        let address = lease.address();
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        let given = self.deadline.saturating_duration_since(Instant::now());
        request.headers_mut().insert(GRPC_TIMEOUT, format_timeout(given));
        let streams = answers_a_stream(self.method);
        let outcome = match timeout_at(self.deadline, exchange(&lease, request, self.method)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Late,
        };
        match &outcome {
            Outcome::Answered(response) if code_of(response.headers()) == Some(Code::DeadlineExceeded) => {
                if given >= FAIR {
                    self.backend.failed(address);
                }
            }
            Outcome::Answered(_) => lease.succeeded(),
            Outcome::Late if given < FAIR => {}
            _ => self.backend.failed(address),
        }
        match outcome {
            // The lease is held until the stream ends.
            Outcome::Answered(response) if streams => Outcome::Answered(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _held = &lease;
                    frame
                }))
            })),
            outcome => outcome,
        }
    }

    fn tried(&self) -> Vec<SocketAddr> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends a request and reads the response. A response of a single message is read completely, so that the call can be
/// repeated if the connection breaks off.
async fn exchange(lease: &Lease, request: Request<Body>, method: Option<&Method>) -> Outcome {
    let streams = answers_a_stream(method);
    let sent = if streams || method.is_some_and(|method| method.descriptor.is_client_streaming()) {
        lease.connection.clone().call(request).await.map_err(CallError::from)
    } else {
        lease.connection.unary(request).await
    };
    let response = match sent {
        Ok(response) => response,
        Err(error) if unsent(&error) => return Outcome::Unsent(error.into()),
        Err(error) => return Outcome::Lost(error.into()),
    };
    if code_of(response.headers()) == Some(Code::Unavailable) {
        return Outcome::Refused(response);
    }
    if streams {
        return Outcome::Answered(response);
    }
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(collected) => {
            let unavailable = collected.trailers().and_then(code_of) == Some(Code::Unavailable);
            let response = Response::from_parts(parts, whole(collected));
            if unavailable { Outcome::Refused(response) } else { Outcome::Answered(response) }
        }
        Err(status) => Outcome::Lost(status.into()),
    }
}

/// The body of a response that was read completely. A response that consists of headers only (gRPC's Trailers-Only)
/// must stay that way: if a server sends an empty data frame after the status, most clients report a broken response.
fn whole(collected: Collected<Bytes>) -> Body {
    match collected.trailers() {
        Some(_) => Body::new(collected),
        // `Full` reports in advance that an empty body has no frames. `Collected` does not.
        None => Body::new(Full::new(collected.to_bytes())),
    }
}

/// True if the method answers with a stream. An unknown method may do so.
fn answers_a_stream(method: Option<&Method>) -> bool {
    method.is_none_or(|method| method.descriptor.is_server_streaming())
}

/// True if the server certainly did not process the request: it was never sent, or the server refused it, or its stream
/// id is above the last one in the server's GOAWAY.
fn unsent(error: &CallError) -> bool {
    let CallError::Network(error) = error else { return true };
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let refused = source.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    });
    error.is_canceled() || refused
}

fn again(parts: &Parts, bytes: &Bytes) -> Request<Body> {
    Request::from_parts(parts.clone(), Body::new(Full::new(bytes.clone())))
}

/// The gRPC code in headers or trailers, if there is one.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

impl Outcome {
    /// The response, or a response made from the failure.
    pub(super) fn into_response(self) -> Response<Body> {
        let problem = match self {
            Self::Answered(response) | Self::Refused(response) => return response,
            Self::Unsent(error) | Self::Lost(error) => Problem::unavailable("a service").caused_by(error),
            Self::Unreachable => Problem::unavailable("a service").retry_after(RETRY_AFTER),
            Self::Late => Problem::new(Reason::DeadlineExceeded, "the call took longer than its deadline"),
        };
        Status::from(problem).into_http()
    }
}
