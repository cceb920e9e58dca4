//! Unary calls of the Connect protocol: gRPC methods over plain HTTP, as JSON or binary protobuf.

use std::time::Duration;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD_NO_PAD,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts as Head};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::json;
use souk_common::{
    context::{GRPC_TIMEOUT, RequestContext, format_timeout},
    contract::Method,
    error::{ACCEPT_ENCODING, OrProblem, Problem, Reason},
    framing::{self, Coding, FRAME},
};
use tonic::{Code, Status, body::Body};

use crate::{
    answer,
    foreign::Errors,
    gateway::Gateway,
    handlers::rest::{self, IDEMPOTENT_REPLAYED},
    percent,
    request::{self, WholeBody},
    transcode::{self, Parts},
};

const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Json,
    Proto,
}

/// A unary call: its encoding and its message.
struct Call {
    codec: Codec,
    message: Bytes,
}

/// Copies the caller's timeout into gRPC's timeout header. A header that cannot be parsed is ignored here: it is
/// refused with the call.
pub fn take_timeout(headers: &mut HeaderMap) {
    if let Ok(Some(timeout)) = timeout(headers) {
        headers.insert(GRPC_TIMEOUT, format_timeout(timeout));
    }
}

/// The caller's timeout from `connect-timeout-ms`, if present.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let mut values = headers.get_all(TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(millis) if values.next().is_none() => Ok(Some(Duration::from_millis(millis))),
        _ => {
            let message = "the header connect-timeout-ms must be there once: milliseconds in 1 to 10 digits";
            Err(Problem::new(Reason::MalformedRequest, message))
        }
    }
}

/// The `Allow` header of a method. GET is allowed only for methods that change nothing.
pub fn allow(method: &Method) -> &'static str {
    if method.safe { "GET, POST, OPTIONS" } else { "POST, OPTIONS" }
}

impl Gateway {
    /// Handles a unary call.
    ///
    /// # Errors
    /// The problem, to be formatted by [`refusal`].
    pub(crate) async fn connect(&self, method: &Method, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let (mut parts, _) = request.into_parts();
        let limit = self.request_limit(method);
        let call = match parts.method {
            http::Method::GET => in_query(&parts, limit)?,
            _ => {
                let codec = Codec::of_body(&parts.headers)?;
                let WholeBody(body) = request::part::<WholeBody>(&parts.extensions)?.clone();
                // Connect requires its own code here. REST responds with 415.
                Call { codec, message: self.inflated(&parts.headers, body, Reason::Unimplemented, limit)? }
            }
        };
        let binding = self.connect.get(&method.path).ok_or_else(Problem::internal)?;
        let message = match call.codec {
            Codec::Proto => call.message,
            Codec::Json => {
                let parts = Parts { captures: &[], query: "", body: &call.message, content_type: "" };
                let message = binding.bind(parts).map_err(transcode::problem)?;
                self.check(&message)?;
                message.encode_to_vec().into()
            }
        };
        self.limits.surcharge_encoded(method, &message, &parts).await?;
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let answered = self.forward(method, &parts, Body::new(Full::new(framing::frame(&message)))).await?;
        let answered_headers = answered.headers().clone();
        let context = request::part::<RequestContext>(&parts.extensions)?;
        let left = context.remaining(method.deadline.unwrap_or(self.config.common.server.deadline));
        let message = tokio::time::timeout(left, unary(answered, &self.api.errors))
            .await
            .map_err(|_| Problem::new(Reason::DeadlineExceeded, "the work took longer than allowed"))??;
        let (content_type, body) = match call.codec {
            Codec::Proto => ("application/proto", message),
            Codec::Json => ("application/json", binding.renderer.render(&message).or_internal()?.into()),
        };
        let mut response = answer::with_body(StatusCode::OK, HeaderValue::from_static(content_type), body);
        if let Some(replayed) = answered_headers.get(IDEMPOTENT_REPLAYED) {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, replayed.clone());
        }
        self.api.response_headers.copy(&answered_headers, response.headers_mut());
        answer::never_store(&mut response);
        Ok(response)
    }
}

/// Refuses a call whose head is invalid.
///
/// # Errors
/// `MALFORMED_REQUEST`, `UNIMPLEMENTED` for a streaming method, `MEDIA_TYPE_UNSUPPORTED`.
pub fn negotiate(method: &Method, http_method: &http::Method, headers: &HeaderMap) -> Result<(), Problem> {
    timeout(headers)?;
    if method.descriptor.is_client_streaming() || method.descriptor.is_server_streaming() {
        return Err(Problem::new(Reason::Unimplemented, "this method streams: call it with gRPC or gRPC-Web"));
    }
    if *http_method != http::Method::GET {
        Codec::of_body(headers)?;
    }
    Ok(())
}

impl Codec {
    fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "proto" => Some(Self::Proto),
            _ => None,
        }
    }

    fn of_body(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = |message: &str| Problem::new(Reason::MediaTypeUnsupported, message);
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence.strip_prefix("application/").and_then(Self::named).ok_or_else(|| {
            unsupported("at this path `content-type` is application/json or application/proto (Connect), or gRPC-Web's")
        })
    }
}

/// Parses the call of a GET: `?connect=v1&encoding=json&message=…`. `base64=1` marks a message in base64url, and
/// `compression=gzip` a compressed one. The decompressed message may have at most `limit` bytes.
fn in_query(parts: &Head, limit: usize) -> Result<Call, Problem> {
    const BASE64URL: GeneralPurpose = GeneralPurpose::new(
        &alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let malformed = |message: String| Problem::new(Reason::MalformedRequest, message);
    let (mut codec, mut message, mut base64, mut coding) = (None, None, false, Coding::Identity);
    for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent::decode(value, percent::Mode::Query)
            .map_err(|error| malformed(format!("the parameter {name} {error}")))?;
        match (name, &*value) {
            ("connect", "v1") | ("base64", "0") | ("compression", "" | "identity") => {}
            ("base64", "1") => base64 = true,
            ("compression", "gzip") => coding = Coding::Gzip,
            ("compression", _) => {
                let message = "the parameter compression must be gzip, identity or empty";
                let refused = Problem::new(Reason::Unimplemented, message);
                return Err(refused.metadata(ACCEPT_ENCODING, Coding::ACCEPTED));
            }
            ("encoding", name) => codec = Codec::named(name),
            ("message", text) => message = Some(text.to_owned()),
            _ => {
                return Err(malformed(format!("the parameter {name} is not one of Connect's, or not with this value")));
            }
        }
    }
    let codec = codec.ok_or_else(|| malformed("the parameter encoding must be json or proto".to_owned()))?;
    let message = message.ok_or_else(|| malformed("the parameter message is missing".to_owned()))?;
    let message = match base64 {
        true => {
            BASE64URL.decode(message).map_err(|_| malformed("the parameter message is not base64url".to_owned()))?
        }
        false => message.into_bytes(),
    };
    Ok(Call { codec, message: rest::inflated(message.into(), coding, limit)? })
}

/// The message of a gRPC frame that must be the only frame.
fn unframed(frame: &Bytes) -> Option<Bytes> {
    let [flag, length @ ..] = *frame.first_chunk::<FRAME>()?;
    let message = frame.slice(FRAME..);
    (flag == 0 && message.len() == u32::from_be_bytes(length) as usize).then_some(message)
}

/// Reads the message of a unary gRPC response, or the status of its failure.
async fn unary(response: Response<Body>, errors: &Errors) -> Result<Bytes, Problem> {
    let broken = || Problem::internal().caused_by("a service's answer is not one gRPC message");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(errors.problem(&status));
    }
    let collected = response.into_body().collect().await.map_err(Problem::from)?;
    let status = collected.trailers().and_then(Status::from_header_map).ok_or_else(broken)?;
    match status.code() {
        Code::Ok => unframed(&collected.to_bytes()).ok_or_else(broken),
        _ => Err(errors.problem(&status)),
    }
}

/// A problem in Connect's format: name of the code, message, and the same details as in gRPC.
pub fn refusal(problem: &Problem, request_id: &str) -> Response<Body> {
    let (name, http_status) = code(problem.code());
    // The only HTTP status that the protocol assigns to a request and not to a code.
    let http_status = if problem.reason() == Reason::MediaTypeUnsupported { 415 } else { http_status };
    let status = Status::from(problem.clone().request_id(request_id));
    let details = tonic_types::pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    let details = details.iter().map(|detail| {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        json!({"type": name, "value": BASE64_STANDARD_NO_PAD.encode(&detail.value)})
    });
    let body = json!({"code": name, "message": status.message(), "details": details.collect::<Vec<_>>()});
    let http_status = StatusCode::from_u16(http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer::json(http_status, body.to_string());
    answer::explain(&mut response, problem);
    response
}

/// The Connect name and the HTTP status of a code.
fn code(code: Code) -> (&'static str, u16) {
    match code {
        Code::Cancelled => ("canceled", 499),
        Code::Ok | Code::Unknown => ("unknown", 500),
        Code::InvalidArgument => ("invalid_argument", 400),
        Code::DeadlineExceeded => ("deadline_exceeded", 504),
        Code::NotFound => ("not_found", 404),
        Code::AlreadyExists => ("already_exists", 409),
        Code::PermissionDenied => ("permission_denied", 403),
        Code::ResourceExhausted => ("resource_exhausted", 429),
        Code::FailedPrecondition => ("failed_precondition", 400),
        Code::Aborted => ("aborted", 409),
        Code::OutOfRange => ("out_of_range", 400),
        Code::Unimplemented => ("unimplemented", 501),
        Code::Internal => ("internal", 500),
        Code::Unavailable => ("unavailable", 503),
        Code::DataLoss => ("data_loss", 500),
        Code::Unauthenticated => ("unauthenticated", 401),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn a_frame_contains_its_message(message in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..105) {
            let frame = framing::frame(&message);
            prop_assert_eq!(&unframed(&frame).unwrap()[..], &message[..]);
            let part = frame.slice(..cut.min(frame.len()));
            prop_assert_eq!(unframed(&part).is_some(), part.len() == frame.len());
        }

        #[test]
        fn no_query_panics(query in "((connect|base64|encoding|message|x)=(v1|1|json|%?[0-9a-zA-Z_=-]{0,9})&?){0,5}") {
            let (parts, ()) = Request::get(format!("/a.B/C?{query}")).body(()).unwrap().into_parts();
            if let Err(problem) = in_query(&parts, 100) {
                prop_assert_eq!(problem.reason(), Reason::MalformedRequest);
            }
        }
    }

    #[test]
    fn a_get_request_has_its_message_in_the_query() {
        let call = |query: &str| {
            let (parts, ()) = Request::get(format!("/a.B/C?{query}")).body(()).unwrap().into_parts();
            in_query(&parts, 100).map(|call| (call.codec, call.message))
        };
        let json = (Codec::Json, Bytes::from_static(b"{\"a\":1}"));
        assert_eq!(call("connect=v1&encoding=json&message=%7B%22a%22%3A1%7D").unwrap(), json);
        assert_eq!(call("encoding=json&base64=1&message=eyJhIjoxfQ").unwrap(), json);
        assert_eq!(call("encoding=proto&base64=1&message=").unwrap(), (Codec::Proto, Bytes::new()));
        for wrong in [
            "",
            "encoding=json",
            "message=",
            "encoding=xml&message=",
            "connect=v2&encoding=json&message=",
            "encoding=json&compression=gzip&message=",
            "encoding=json&compression=br&message=",
            "encoding=json&base64=1&message=?",
        ] {
            assert!(call(wrong).is_err(), "{wrong}");
        }
    }
}
