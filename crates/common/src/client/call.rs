//! One call: its tries, each on the best address left, and what becomes of them.

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
/// Before a second try where there is no other address to go to; each further pause is longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// A call that changes nothing is sent to a second address, too, if the first is silent for this long.
const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// An address that had at least so long for its answer, and gave none, failed. Shorter deadlines are the caller's
/// own choice, and must not be a way to have an address left out.
const FAIR: Duration = Duration::from_secs(1);
/// When to come back where no address can be reached.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call under way.
pub(super) struct Call<'a> {
    backend: &'a Backend,
    budget: &'a TpsBudget,
    method: Option<&'a Method>,
    deadline: Instant,
    tried: Mutex<Vec<SocketAddr>>,
}

/// What became of a try.
pub(super) enum Outcome {
    /// The service answered, whatever it said.
    Answered(Response<Body>),
    /// The service answered that it cannot for now.
    Refused(Response<Body>),
    /// The service never saw it.
    Unsent(BoxError),
    /// The connection was lost before the answer: it may have been done, or not.
    Lost(BoxError),
    /// The deadline is over.
    Late,
    /// There is no address to send it to.
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

    /// Sends it, more than once where that does no harm.
    pub(super) async fn send(&self, request: Request<Body>) -> Outcome {
        match self.method {
            Some(method) if !method.descriptor.is_client_streaming() => self.repeat(method, request).await,
            // What streams in is gone when a try has failed.
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
                // Jitter, so that those who failed together do not come back together.
                sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                pause *= 4;
            }
        }
        Outcome::Late
    }

    /// A try that is joined by a second one, on another address, if it takes long. The first answer counts.
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

    /// One try, within what is left of the deadline.
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
            // The place is taken until the stream ends.
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

/// Sends a request and takes the answer in: whole, where it is one message, for what breaks off can be repeated then.
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

/// The body of an answer that was taken in. One that was its headers alone must stay so (gRPC's Trailers-Only): where a
/// server sends an empty piece of data after the status, most clients see a broken answer.
fn whole(collected: Collected<Bytes>) -> Body {
    match collected.trailers() {
        Some(_) => Body::new(collected),
        // Unlike what was collected, it says beforehand that nothing comes.
        None => Body::new(Full::new(collected.to_bytes())),
    }
}

/// What is not known may be a stream.
fn answers_a_stream(method: Option<&Method>) -> bool {
    method.is_none_or(|method| method.descriptor.is_server_streaming())
}

/// Whether the server is known not to have begun with a request: it never left, or was refused, or came after the
/// last one that the server said goodbye with.
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

/// The gRPC code in headers or trailers, if it stands there.
pub(super) fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

impl Outcome {
    /// The answer, or what stands for it.
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
