//! CORS: which web pages of other origins may call (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! tower-http's layer answers every OPTIONS itself, with the same methods for each path. Here a preflight is answered
//! by the routes, as any OPTIONS is, and what they allow is told to the browser, too.
//!
//! `loopback` among the origins means the pages of this machine, as a developer's own server shows them. They may call
//! where the request itself is addressed to this machine: not through a proxy that serves a name to others, and not for
//! a page whose name was bound to this machine's address behind its back (DNS rebinding).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, Uri, header};
use serde::Deserialize;

use crate::{
    foreign::{self, HeaderList},
    head,
};

/// Stands for the origins of this machine.
const LOOPBACK: &str = "loopback";

/// Request headers that a page may send: those that mean something here, gRPC-Web's and Connect's among them.
const REQUEST_HEADERS: &str = "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, x-request-id, traceparent, \
     tracestate, x-grpc-web, x-user-agent, grpc-timeout, connect-protocol-version, connect-timeout-ms";
/// Response headers that a page may read, besides those that each may.
const RESPONSE_HEADERS: &str = "x-request-id, etag, retry-after, ratelimit, ratelimit-policy, ratelimit-limit, ratelimit-remaining, \
     ratelimit-reset, idempotent-replayed, deprecation, sunset, link, allow, www-authenticate, grpc-status, \
     grpc-message, grpc-status-details-bin";
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");
/// The headers that a preflight's answer depends on.
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("access-control-request-method, access-control-request-headers");

/// `[gateway.cors]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Origins such as `https://shop.example`, `loopback`, or `*` alone. Empty: none.
    pub allowed_origins: Vec<String>,
    /// Whether browsers may send cookies and the like, and let the page read the answer.
    pub allow_credentials: bool,
    /// How long a browser may remember a preflight's answer.
    #[serde(with = "souk_common::config::duration")]
    pub max_age: Duration,
}

impl Settings {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// The setting's name below `gateway.cors`, and what would be right.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let any = self.allowed_origins.iter().any(|origin| origin == "*");
        if any && self.allowed_origins.len() > 1 {
            return Err(("allowed_origins", "must be \"*\" alone, or origins without it".to_owned()));
        }
        if any && self.allow_credentials {
            return Err(("allow_credentials", "must be false where every origin is allowed: name them".to_owned()));
        }
        let is_known = |origin: &str| origin == "*" || origin == LOOPBACK || is_origin(origin);
        match self.allowed_origins.iter().find(|origin| !is_known(origin)) {
            Some(wrong) => {
                let fault = format!(
                    "`{wrong}` is not an origin: write it as browsers do, \"https://shop.example\", or \"loopback\""
                );
                Err(("allowed_origins", fault))
            }
            None => Ok(()),
        }
    }
}

/// The headers that each page may use, and those that the contract's settings name.
fn with(always: &str, more: &HeaderList) -> HeaderValue {
    let names: Vec<_> = std::iter::once(always).chain(more.named()).collect();
    HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

/// Scheme, host and port where it is not the scheme's own, in lower case, without a `/` at the end.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let parsed = text.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    parsed.as_deref() == Some(authority)
        // No user, and no pattern.
        && !authority.contains(['@', '*'])
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && (default_port.is_empty() || !authority.ends_with(default_port))
}

/// Which origins may call.
pub struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
    loopback: bool,
    credentials: bool,
    max_age: HeaderValue,
    /// Headers that a page may send, and read.
    request_headers: HeaderValue,
    response_headers: HeaderValue,
}

/// Where a request comes from, if a browser says so.
pub struct Origin {
    value: HeaderValue,
    preflight: bool,
    /// A page of this machine asks this machine.
    within: bool,
}

/// Whether a request asks if another one may be sent.
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    *request.method() == HttpMethod::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Cors {
    /// From checked settings.
    pub fn of(settings: &Settings, contract: &foreign::Settings) -> Self {
        let has = |word: &str| settings.allowed_origins.iter().any(|origin| origin == word);
        Self {
            origins: settings.allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(),
            any: has("*"),
            loopback: has(LOOPBACK),
            credentials: settings.allow_credentials,
            max_age: settings.max_age.as_secs().into(),
            request_headers: with(REQUEST_HEADERS, &contract.request_headers),
            response_headers: with(RESPONSE_HEADERS, &contract.response_headers),
        }
    }

    /// Where the request comes from.
    pub fn origin<B>(&self, request: &Request<B>) -> Option<Origin> {
        let value = request.headers().get(header::ORIGIN)?.clone();
        let within = self.loopback && head::is_loopback_origin(&value) && head::is_for_loopback(request);
        Some(Origin { value, preflight: is_preflight(request), within })
    }

    /// Says on an answer whether the page that asked may read it, and on a preflight's what it may send.
    pub fn dress(&self, origin: Option<&Origin>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        if !self.any {
            // Also where no origin came: the same answer must not be kept for one that does.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = origin else { return };
        // No origin has the name of a word here: each has a scheme.
        if !self.any && !origin.within && !self.origins.contains(&origin.value) {
            return;
        }
        let allowed = if self.any { ANY } else { origin.value.clone() };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if !origin.preflight {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.response_headers.clone());
            return;
        }
        headers.append(header::VARY, PREFLIGHT_VARY);
        if let Some(methods) = headers.get(header::ALLOW).cloned() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.request_headers.clone());
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for right in ["https://shop.example", "http://localhost:5173", "https://[::1]:8443", "capacitor://localhost"] {
            assert!(is_origin(right), "{right}");
        }
        for wrong in [
            "",
            "*",
            "null",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://shop.example/a",
            "https://Shop.example",
            "https://shop.example:443",
            "http://a:80",
            "https://u@shop.example",
            "https://*.a",
        ] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let check = |origins: &[&str], allow_credentials| {
            let allowed_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
            Settings { allowed_origins, allow_credentials, max_age: Duration::ZERO }.check().map_err(|fault| fault.0)
        };
        assert_eq!(check(&[], false), Ok(()));
        assert_eq!(check(&["*"], false), Ok(()));
        assert_eq!(check(&["https://a", "https://b"], true), Ok(()));
        assert_eq!(check(&["https://a", "loopback"], false), Ok(()));
        assert_eq!(check(&["*", "loopback"], false), Err("allowed_origins"));
        assert_eq!(check(&["*"], true), Err("allow_credentials"));
        assert_eq!(check(&["*", "https://a"], false), Err("allowed_origins"));
        assert_eq!(check(&["https://a/"], false), Err("allowed_origins"));
    }
}
