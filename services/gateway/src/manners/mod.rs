//! HTTP manners: what an answer is dressed with on its way out, whatever made it.
//!
//! What belongs to the call itself is asked for by `rest`: `caching` (`Cache-Control`, `ETag`, 304) and
//! `precondition` (`If-Match`), `idempotency` (`Idempotency-Key`). The rest is put on every answer here.

pub mod caching;
pub mod compression;
pub mod cors;
mod etag;
pub mod idempotency;
pub mod precondition;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use souk_common::contract::Deprecation;
use tonic::body::Body;

use self::cors::{Cors, Origin};
use crate::config::Settings;

/// Nothing that the gateway answers is a page to frame or to run scripts in. A page that is one sets its own.
pub const SECURITY: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
];
/// From now on for a year, never without TLS (RFC 6797).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// When a method goes out of use (RFC 9745).
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
/// When it may be gone (RFC 8594).
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// How answers are dressed.
pub struct Manners {
    cors: Cors,
    compression: bool,
    tls: bool,
}

/// What of a request decides how its answer is dressed.
pub struct Asked {
    origin: Option<Origin>,
    accept_encoding: Vec<HeaderValue>,
}

impl Manners {
    /// As the settings have it.
    pub fn of(settings: &Settings) -> Self {
        Self {
            cors: Cors::of(&settings.cors, &settings.contract),
            compression: settings.compression,
            tls: settings.tls.is_on(),
        }
    }

    /// To be asked before the request is consumed.
    pub fn asked<B>(&self, request: &Request<B>) -> Asked {
        let accept_encoding = request.headers().get_all(header::ACCEPT_ENCODING).iter().cloned().collect();
        Asked { origin: self.cors.origin(request), accept_encoding }
    }

    /// Dresses an answer of REST.
    pub async fn dress(&self, asked: &Asked, mut response: Response<Body>) -> Response<Body> {
        if self.compression {
            response = compression::compress(&asked.accept_encoding, response).await;
        }
        let headers = response.headers_mut();
        for (name, value) in SECURITY {
            headers.entry(name).or_insert(value);
        }
        if self.tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        self.cors.dress(asked.origin.as_ref(), headers);
        response
    }
}

/// Says of a method that it goes out of use.
pub fn deprecate(headers: &mut HeaderMap, deprecation: &Deprecation) {
    let mut set = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(name, value);
        }
    };
    if let Some(since) = deprecation.since.and_hms_opt(0, 0, 0) {
        set(DEPRECATION, format!("@{}", since.and_utc().timestamp()));
    }
    // It works to the end of that day.
    if let Some(sunset) = deprecation.sunset.and_then(|day| day.and_hms_opt(23, 59, 59)) {
        set(SUNSET, sunset.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    if let Some(link) = &deprecation.link {
        set(header::LINK, format!("<{link}>; rel=\"deprecation\""));
    }
}
