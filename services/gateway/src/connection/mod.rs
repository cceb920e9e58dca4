//! Client connections: reuse of HTTP/1.1 connections, closing, and limits.
//!
//! hyper closes a connection when a request was answered before its body was read (one that is refused for its token,
//! say), and does not announce it: the client's next request on that connection is lost. So what of a body is not read
//! is read here and thrown away, within a bound (`unread`). Where that is too much, the answer says `Connection: close`,
//! and the connection ends in stages (`closing`): a socket that is closed while bytes are still coming in is reset, and
//! the reset takes the answer with it before the client has read it. What hyper refuses by itself gets a problem as its
//! body (`refusal`).
//!
//! On HTTP/2 none of this is needed: there a stream ends alone (RFC 9113, 8.1).
//!
//! What a client may hold is limited: connections (`open`), and responses that it does not read (`unsent`, `socket`).

mod closing;
mod open;
mod pace;
mod refusal;
mod socket;
mod unread;
mod unsent;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use souk_common::{
    context::{REQUEST_ID, RequestContext},
    error::Problem,
    server::{Aging, Stop},
};
use tokio::time::Instant;
use tonic::{Status, body::Body};

pub use self::{
    closing::Staged,
    open::{Connection, Connections, Entry},
    socket::Socket,
    unsent::Unsent,
};
use self::{unread::Unread, unsent::Ticket};
use crate::{
    address, answer,
    config::{Config, Settings},
    handlers::grpc,
    request::{ClientAddress, RefusedForBudget},
    stack::NextInfallible,
};

/// How much of a body that nobody reads is read and thrown away.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of it.
    pub bytes: u64,
    /// How long it is waited for, and then for the client to read the answer.
    pub time: Duration,
}

impl Bounds {
    /// As much as a request body may have.
    pub fn of(config: &Config) -> Self {
        Self {
            bytes: u64::try_from(config.common.server.max_request_bytes).unwrap_or(u64::MAX),
            time: config.settings.unread_timeout,
        }
    }
}

/// Until when a connection that ends waits for its client to stop sending. Shared by the connection and the bodies of
/// its requests.
#[derive(Debug, Clone, Default)]
pub struct Linger(Arc<Mutex<Option<Instant>>>);

impl Linger {
    fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Takes back what was set, unless a later request has set another.
    fn take_back(&self, until: Instant) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = held.filter(|other| *other != until);
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the requests of one connection.
pub struct Requests {
    /// The stack of the gateway.
    pub stack: NextInfallible,
    /// How the gateway is set.
    pub settings: Arc<Settings>,
    /// Of bodies that nobody reads.
    pub bounds: Bounds,
    /// How long the connection waits when it ends.
    pub linger: Linger,
    /// How old the connection may become.
    pub aging: Aging,
    /// How the gateway is stopped.
    pub stop: Stop,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Requests {
    /// Answers a request. Unread responses count against the client: with too many of them, its requests are refused
    /// before any work.
    pub async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Unsent>, Infallible> {
        let version = request.version();
        self.aging.request(version);
        let (trusted, by) = (&self.settings.trusted_proxies, self.settings.forwarded_by);
        let client = address::client(self.connection.peer(), request.headers(), trusted, by);
        request.extensions_mut().insert(ClientAddress(client));
        let refusal = Refused::of(&request);
        let ticket = self.connection.begin(client, version);
        let (request, unread) = if version > Version::HTTP_11 {
            (request.map(Body::new), None)
        } else {
            let unread = Unread::of(request.headers(), self.bounds, self.linger.clone());
            (request.map(|body| Body::new(unread.watch(body))), Some(unread))
        };
        let mut response = match ticket {
            Ok(ticket) => {
                let response = self.stack.run(request).await?;
                if response.extensions().get::<RefusedForBudget>().is_some() {
                    self.connection.refused(client);
                }
                held(response, ticket, &refusal)
            }
            Err((problem, ticket)) => {
                self.connection.refused(client);
                drop(request);
                refusal.response(&problem, ticket)
            }
        };
        let closes = |unread: Unread| {
            let late = response.status() == StatusCode::REQUEST_TIMEOUT;
            unread.is_too_much() || late || self.stop.announced().is_cancelled()
        };
        let closes = unread.is_some_and(closes);
        self.aging.response(response.headers_mut());
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

fn held(response: Response<Body>, ticket: Ticket, refused: &Refused) -> Response<Unsent> {
    unsent::hold(response, ticket, ()).unwrap_or_else(|(problem, ticket)| refused.response(&problem, ticket))
}

/// What is needed to refuse a request.
struct Refused {
    speaks_grpc: bool,
    request_id: Option<HeaderValue>,
    uri: Uri,
}

impl Refused {
    fn of<B>(request: &Request<B>) -> Self {
        let request_id = request.headers().get(REQUEST_ID).cloned();
        Self { speaks_grpc: grpc::is_grpc(request), request_id, uri: request.uri().clone() }
    }

    fn response(&self, problem: &Problem, ticket: Ticket) -> Response<Unsent> {
        let headers: HeaderMap = self.request_id.iter().map(|id| (REQUEST_ID, id.clone())).collect();
        let context = RequestContext::from_headers(&headers, Duration::ZERO);
        let mut response = match self.speaks_grpc {
            true => Status::from(problem.clone().request_id(&*context.request_id)).into_http(),
            false => answer::problem(problem, &context.request_id, self.uri.path(), None),
        };
        if let Some(id) = context.request_id_header() {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if !self.speaks_grpc && ticket.has_many_beside() {
            // Only headers: a body would be one more unread response.
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        unsent::hold(response, ticket, ()).unwrap_or_else(|_| Response::new(Unsent::default()))
    }
}
