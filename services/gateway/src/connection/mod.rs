//! Client connections: reuse of HTTP/1.1 connections, closing, and limits.
//!
//! hyper closes a connection if it responded to a request before the request body was read, for example because of an
//! invalid token. It does not announce this, so the client's next request on the connection is lost. The gateway
//! therefore reads the rest of the body and discards it, up to a limit (`unread`). If the rest is too large, the
//! response has `Connection: close`, and the connection closes in stages (`closing`): closing a socket while bytes
//! still arrive resets it, and the reset destroys the response before the client has read it. Refusals by hyper itself
//! get a problem as their body (`refusal`).
//!
//! HTTP/2 needs none of this, because each stream ends on its own (RFC 9113, 8.1).
//!
//! Each client's resources are limited: its connections (`open`), and the responses that it does not read (`unsent`,
//! `socket`).

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

/// Limits for reading and discarding a request body that nothing else reads.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Maximum number of bytes to read.
    pub bytes: u64,
    /// How long to wait for the body, and then for the client to read the response.
    pub time: Duration,
}

impl Bounds {
    /// Limits of the same size as the largest request body.
    pub fn of(config: &Config) -> Self {
        Self {
            bytes: u64::try_from(config.common.server.max_request_bytes).unwrap_or(u64::MAX),
            time: config.settings.unread_timeout,
        }
    }
}

/// The time until which a closing connection waits for its client to stop sending. The connection and the bodies of its
/// requests share it.
#[derive(Debug, Clone, Default)]
pub struct Linger(Arc<Mutex<Option<Instant>>>);

impl Linger {
    fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Clears the time `until`, unless a later request has set another one.
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
    /// The layers and handlers of the gateway.
    pub stack: NextInfallible,
    /// The settings of the gateway.
    pub settings: Arc<Settings>,
    /// Limits for bodies that nothing else reads.
    pub bounds: Bounds,
    /// Until when the closing connection waits for its client.
    pub linger: Linger,
    /// The age limits of the connection.
    pub aging: Aging,
    /// The stop signal of the gateway.
    pub stop: Stop,
    /// The connection that the requests arrive on.
    pub connection: Arc<Connection>,
}

impl Requests {
    /// Responds to a request. Unread responses count against the client. If a client has too many of them, its requests
    /// are refused before any work.
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

/// The data of a request that its refusal needs.
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
            // Headers only, because a body would be one more unread response.
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        unsent::hold(response, ticket, ()).unwrap_or_else(|_| Response::new(Unsent::default()))
    }
}
