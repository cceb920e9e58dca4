//! The gateway's own responses: JSON, problems and common headers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use souk_common::error::{ACCEPT_ENCODING, Problem, Reason};
use tonic::body::Body;

use crate::transcode::{Binding, violation::Place};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The metadata of a problem that also becomes its `Allow` header.
pub const ALLOW: &str = "allow";

/// A response with a JSON body.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_body(status, JSON, body.into())
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A problem as `application/problem+json` (RFC 9457), with its headers. `instance` is the path of the request.
/// `binding` says in which part of the request each field was sent.
pub fn problem(problem: &Problem, request_id: &str, instance: &str, binding: Option<&Binding>) -> Response<Body> {
    let status = StatusCode::from_u16(problem.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = problem_json(problem, request_id, instance, binding);
    let mut response = with_body(status, PROBLEM, body.to_string().into());
    explain(&mut response, problem);
    response
}

/// Adds the headers of a problem to its response.
pub fn explain(response: &mut Response<Body>, problem: &Problem) {
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, challenge(problem.reason()));
    }
    if let Some(delay) = problem.retry_delay() {
        // Rounded up to whole seconds: an earlier retry would be refused again.
        headers.insert(header::RETRY_AFTER, (delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).into());
    }
    for (name, value) in problem.headers().into_iter().flatten() {
        headers.append(name, value.clone());
    }
    if let Some(Ok(codings)) = problem.get_metadata(ACCEPT_ENCODING).map(HeaderValue::from_str) {
        headers.insert(header::ACCEPT_ENCODING, codings);
    }
    if let Some(Ok(allow)) = problem.get_metadata(ALLOW).map(HeaderValue::from_str) {
        headers.insert(header::ALLOW, allow);
    }
}

/// The JSON of a problem. `instance` is the path of the request. `binding` says in which part of the request each field
/// was sent.
pub fn problem_json(problem: &Problem, request_id: &str, instance: &str, binding: Option<&Binding>) -> Value {
    let mut body = problem.to_json(request_id, instance);
    if let (Some(binding), Some(Value::Array(errors))) = (binding, body.get_mut("errors")) {
        errors.iter_mut().for_each(|error| locate(error, binding));
    }
    body
}

/// The `WWW-Authenticate` header (RFC 6750): the expected kind of token, and whether the token in the request was
/// invalid, or its log-in too old (RFC 9470).
fn challenge(reason: Reason) -> HeaderValue {
    HeaderValue::from_static(match reason {
        Reason::TokenInvalid | Reason::TokenExpired => "Bearer error=\"invalid_token\"",
        Reason::ReauthenticationRequired => "Bearer error=\"insufficient_user_authentication\"",
        _ => "Bearer",
    })
}

/// Adds the part of the request that an invalid field came from. A JSON pointer refers to the request body, which may
/// be one field of the message. So a field from the path, the query or a header has a parameter name and no pointer.
fn locate(error: &mut Value, binding: &Binding) {
    let Some(members) = error.as_object_mut() else { return };
    let Some(field) = members.get("field").and_then(Value::as_str).map(str::to_owned) else { return };
    let place = match binding.place(&field) {
        Place::Body => {
            if let Some(pointer) = members.get("pointer").and_then(Value::as_str) {
                let inside = binding.pointer_in_body(pointer).to_owned();
                members.insert("pointer".to_owned(), inside.into());
            }
            "body"
        }
        Place::Path => {
            members.remove("pointer");
            "path"
        }
        Place::Query => {
            members.remove("pointer");
            "query"
        }
        Place::Header => {
            members.remove("pointer");
            "header"
        }
    };
    members.insert("in".to_owned(), place.into());
}

/// A response with a body of the given type.
pub fn with_body(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let length = body.len();
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    // Set here, so that the response to HEAD has it, too.
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// Forbids caches from storing a response.
pub fn never_store(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
}

/// The default `Retry-After`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Adds `Retry-After` to a temporary refusal (503), if the service did not set it.
pub fn with_retry_delay(problem: Problem) -> Problem {
    let for_now = problem.http_status() == StatusCode::SERVICE_UNAVAILABLE.as_u16();
    if for_now && problem.retry_delay().is_none() { problem.retry_after(RETRY_AFTER) } else { problem }
}
