//! The headers of every response, and the deprecation headers of a method.

use std::convert::Infallible;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use souk_common::contract::Deprecation;
use tonic::body::Body;

use super::layer::NextInfallible;
use crate::gateway::Gateway;

/// The default security headers: no framing and no scripts. Pages set their own.
pub const SECURITY: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
];
/// Requires TLS for one year from now (RFC 6797).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// The date since when a method is deprecated (RFC 9745).
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
/// The date after which a method may be removed (RFC 8594).
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// Adds the security headers that a response does not have yet.
pub async fn secure(
    gateway: &Gateway,
    request: Request<Body>,
    next: &NextInfallible,
) -> Result<Response<Body>, Infallible> {
    let Ok(mut response) = next.run(request).await;
    if !is_grpc(response.headers()) {
        let headers = response.headers_mut();
        for (name, value) in SECURITY {
            headers.entry(name).or_insert(value);
        }
        if gateway.config.settings.tls.is_on() {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
    }
    Ok(response)
}

/// True for plain gRPC, whose responses no browser reads. gRPC-Web has another content type.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value == b"application/grpc" || value.starts_with(b"application/grpc+"))
}

/// Adds the deprecation headers of a method.
pub fn deprecate(headers: &mut HeaderMap, deprecation: &Deprecation) {
    let mut set = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(name, value);
        }
    };
    if let Some(since) = deprecation.since.and_hms_opt(0, 0, 0) {
        set(DEPRECATION, format!("@{}", since.and_utc().timestamp()));
    }
    // The method works until the end of that day.
    if let Some(sunset) = deprecation.sunset.and_then(|day| day.and_hms_opt(23, 59, 59)) {
        set(SUNSET, sunset.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    if let Some(link) = &deprecation.link {
        set(header::LINK, format!("<{link}>; rel=\"deprecation\""));
    }
}
