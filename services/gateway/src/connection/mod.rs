//! How an HTTP/1.1 connection goes on after a request, and how it ends.
//!
//! hyper closes a connection when a request was answered before its body was read (one that is refused for its token,
//! say), and does not announce it: the client's next request on that connection is lost. So what of a body is not read
//! is read here and thrown away, within a bound (`unread`). Where that is too much, the answer says `Connection: close`,
//! and the connection ends in stages (`closing`): a socket that is closed while bytes are still coming in is reset, and
//! the reset takes the answer with it before the client has read it. What hyper refuses by itself gets a problem as its
//! body (`refusal`).
//!
//! On HTTP/2 none of this is needed: there a stream ends alone (RFC 9113, 8.1).

mod closing;
mod refusal;
mod unread;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::body::Body;

pub use self::closing::Staged;
use self::unread::Unread;
use crate::{config::Config, layers::NextInfallible};

/// How much of a body that nobody reads is read and thrown away.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of it.
    pub bytes: u64,
    /// How long it is waited for, and then for the client to read the answer.
    pub time: Duration,
}

impl Bounds {
    /// A body that would have been taken is not too much to be thrown away.
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

/// Answers a request of a connection.
pub async fn answer(
    stack: &NextInfallible,
    request: Request<Incoming>,
    bounds: Bounds,
    linger: &Linger,
) -> Result<Response<Body>, Infallible> {
    if request.version() > Version::HTTP_11 {
        return stack.run(request.map(Body::new)).await;
    }
    let unread = Unread::of(request.headers(), bounds, linger.clone());
    let Ok(mut response) = stack.run(request.map(|body| Body::new(unread.watch(body)))).await;
    if unread.is_too_much() || response.status() == StatusCode::REQUEST_TIMEOUT {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
