//! Reads the whole request body before the request takes a place.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use souk_common::{error::Problem, framing::FRAME};
use tonic::body::Body;

use super::layer::Next;
use crate::{
    body::{Limits, whole},
    gateway::Gateway,
    handlers::{connect, rest},
    request::{self, WholeBody},
    target::{Protocol, To},
};

/// The minimum time for any body. A larger size limit of a method adds time, so that a small call has less time than an
/// import.
const GRACE: Duration = Duration::from_secs(5);
const SLOWEST: u64 = 128 * 1024;

/// Reads the body of a call with a single message. A stream's body is read while it is forwarded, and an unexpected
/// body is not read at all. Requests with an invalid head are refused first.
pub async fn read(gateway: &Gateway, request: Request<Body>, next: &Next) -> Result<Response<Body>, Problem> {
    let target = request::target(request.extensions())?.clone();
    let Some(method) = target.method() else { return next.run(request).await };
    match (&target.to, target.protocol) {
        (To::Route(matched), _) => drop(rest::negotiate(matched, request.headers())?),
        (_, Protocol::Connect) => connect::negotiate(method, request.method(), request.headers())?,
        _ => {}
    }
    if target.streams_in() {
        return next.run(request).await;
    }
    let limit = gateway.request_limit(method);
    // Size of the framing around the message, in bytes.
    let framing = match target.protocol {
        Protocol::Grpc | Protocol::GrpcWeb(_) => FRAME,
        Protocol::Rest | Protocol::Connect => 0,
    };
    let (mut parts, body) = request.into_parts();
    let limits = Limits {
        bytes: limit,
        framing,
        time: gateway.config.settings.body_timeout.min(GRACE + Duration::from_secs(limit as u64 / SLOWEST)),
    };
    let site = request::site(&parts.extensions)?;
    let (bytes, _held) = match body.is_end_stream() {
        true => (Bytes::new(), None),
        false => Box::pin(whole(&gateway.bodies, site, &parts.headers, body, limits))
            .await
            .map(|(bytes, held)| (bytes, Some(held)))?,
    };
    parts.extensions.insert(WholeBody(bytes));
    next.run(Request::from_parts(parts, Body::empty())).await
}
