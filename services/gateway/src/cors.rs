//! CORS: the web pages of other origins that may call (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! The origin `loopback` means pages that are served on this machine, for example by a developer's own server. They may
//! call only if the request is addressed to this machine. This excludes requests through a proxy that serves a public
//! name, and pages whose name was bound to this machine's address by an attacker (DNS rebinding).

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method as HttpMethod, Request, Uri, header, request::Parts};
use serde::Deserialize;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    foreign::{self, HeaderList},
    head,
};

/// The setting that represents all origins of this machine.
const LOOPBACK: &str = "loopback";

/// Methods that a page may send: all methods that some route accepts. Each path reports its own methods in `Allow`.
const METHODS: [HttpMethod; 6] =
    [HttpMethod::GET, HttpMethod::HEAD, HttpMethod::POST, HttpMethod::PUT, HttpMethod::PATCH, HttpMethod::DELETE];
/// Request headers that a page may send: all headers that the gateway reads, including those of gRPC-Web and Connect.
const REQUEST_HEADERS: [HeaderName; 14] = [
    HeaderName::from_static("authorization"),
    HeaderName::from_static("content-type"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("if-match"),
    HeaderName::from_static("if-none-match"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
];
/// Response headers that a page may read, in addition to those that every page may read.
const RESPONSE_HEADERS: [HeaderName; 17] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("etag"),
    HeaderName::from_static("retry-after"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("deprecation"),
    HeaderName::from_static("sunset"),
    HeaderName::from_static("link"),
    HeaderName::from_static("allow"),
    HeaderName::from_static("www-authenticate"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// The settings of `[gateway.cors]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Allowed origins, such as `https://shop.example`, `loopback`, or `*` alone. Empty: none.
    pub allowed_origins: Vec<String>,
    /// True if browsers may send cookies and other credentials, and may let the page read the response.
    pub allow_credentials: bool,
    /// How long a browser may cache the response to a preflight.
    #[serde(with = "souk_common::config::duration")]
    pub max_age: Duration,
}

impl Settings {
    /// Checks the rules that the types do not enforce.
    ///
    /// # Errors
    /// The name of the invalid setting below `gateway.cors`, and its valid values.
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

/// True if a text is a valid origin: scheme, host, and the port unless it is the default, in lower case, without a `/`
/// at the end.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let parsed = text.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    parsed.as_deref() == Some(authority)
        // Origins have no user, and patterns are not supported.
        && !authority.contains(['@', '*'])
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && (default_port.is_empty() || !authority.ends_with(default_port))
}

/// True if a request is a CORS preflight.
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    *request.method() == HttpMethod::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The default headers and the headers that the contract's settings name.
fn with(always: &[HeaderName], more: &HeaderList) -> Vec<HeaderName> {
    always.iter().chain(more.named()).cloned().collect()
}

/// The CORS rules from checked settings.
pub struct Cors {
    /// The layer of tower-http that applies the rules.
    pub layer: CorsLayer,
    /// True if a response depends on the origin of the request.
    pub varies: bool,
}

impl Cors {
    /// Creates the rules. `None` if no other origin may call.
    pub fn of(settings: &Settings, contract: &foreign::Settings) -> Option<Self> {
        let has = |word: &str| settings.allowed_origins.iter().any(|origin| origin == word);
        let origins: Vec<HeaderValue> =
            settings.allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
        let (any, loopback) = (has("*"), has(LOOPBACK));
        let is_allowed = move |origin: &HeaderValue, request: &Parts| {
            // `*` and `loopback` never equal an origin, because every origin has a scheme.
            origins.contains(origin)
                || loopback && head::is_loopback_origin(origin) && head::is_for_loopback(&request.uri, &request.headers)
        };
        let layer = CorsLayer::new()
            .allow_origin(if any { AllowOrigin::any() } else { AllowOrigin::predicate(is_allowed) })
            .allow_methods(METHODS)
            .allow_headers(with(&REQUEST_HEADERS, &contract.request_headers))
            .expose_headers(with(&RESPONSE_HEADERS, &contract.response_headers))
            .allow_credentials(settings.allow_credentials)
            .max_age(settings.max_age)
            .vary([]);
        (!settings.allowed_origins.is_empty()).then_some(Self { layer, varies: !any })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_in_the_form_that_browsers_send() {
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
    fn invalid_settings_are_refused() {
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
