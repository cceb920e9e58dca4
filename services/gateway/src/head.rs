//! Checks the head of every request: it has one host, one length, and no repeated single-valued headers.

use std::{fmt::Display, net::Ipv6Addr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{self, AsHeaderName},
};
use souk_common::{
    context::{GRPC_TIMEOUT, REQUEST_ID},
    error::{Problem, Reason},
};

/// Headers that may have only one value. `Authorization` is another one: see [`souk_common::auth::Verifier`].
const SINGLE: [HeaderName; 13] = [
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::ORIGIN,
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    HeaderName::from_static("grpc-encoding"),
    GRPC_TIMEOUT,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
];
/// Headers that identify a request in logs and traces. Proxies set them, so a request with two different values does
/// not fail. It gets a new value (W3C Trace Context, 3.2).
const NAMES: [HeaderName; 2] = [REQUEST_ID, HeaderName::from_static("traceparent")];

/// Checks the head of a request, and removes ambiguous identifying headers.
///
/// # Errors
/// `MALFORMED_REQUEST` with the fault; `UNIMPLEMENTED` (501) for an unknown transfer coding.
pub fn check<B>(request: &mut Request<B>) -> Result<(), Problem> {
    for name in NAMES {
        if single(request.headers(), &name).is_err() {
            request.headers_mut().remove(name);
        }
    }
    host(request.version(), request.uri(), request.headers())?;
    transfer_coding(request.headers())?;
    SINGLE.iter().try_for_each(|name| single(request.headers(), name).map(drop))
}

/// The value of a header that may have only one value.
///
/// # Errors
/// `MALFORMED_REQUEST` if the header has several different values. Another server might use another one of them.
pub fn single(headers: &HeaderMap, name: impl AsHeaderName + Display + Copy) -> Result<Option<&HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.any(|value| Some(value) != first) {
        return Err(malformed(format!("the header {name} comes more than once, with different values: send it once")));
    }
    Ok(first)
}

/// Checks the host of a request (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(header::HOST).iter();
    let given = values.next();
    if values.next().is_some() {
        return Err(malformed("the header Host comes more than once: send it once"));
    }
    let given = given
        .map(|value| {
            let host = value.to_str().ok().filter(|text| text.is_empty() || Host::parse(text).is_some());
            host.ok_or_else(|| malformed("the header Host must be a host, or host:port"))
        })
        .transpose()?;
    if version < Version::HTTP_2 {
        // A target in absolute form overrides the header, and may differ from it (RFC 9112, 3.2.2).
        return match given {
            None if version == Version::HTTP_11 => Err(malformed("the header Host is missing")),
            _ => Ok(()),
        };
    }
    match (uri.authority(), given) {
        (None, None) => Err(malformed("both :authority and the header Host are missing: send one of them")),
        (None, Some(_)) => Ok(()),
        (Some(authority), given) => {
            let authority =
                Host::parse(authority.as_str()).ok_or_else(|| malformed(":authority must be a host, or host:port"))?;
            let same = given.is_none_or(|host| Host::parse(host).is_some_and(|host| host.is(&authority, uri)));
            if same { Ok(()) } else { Err(malformed("the header Host differs from :authority: leave it out")) }
        }
    }
}

/// The host and port that a request is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host<'t> {
    name: &'t str,
    port: Option<u16>,
}

impl<'t> Host<'t> {
    /// Parses `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2).
    fn parse(text: &'t str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                let name = text.get(..address.len() + 2)?;
                (name, if after.is_empty() { "" } else { after.strip_prefix(':')? })
            }
            None => {
                let (name, port) = text.split_once(':').unwrap_or((text, ""));
                is_name(name).then_some((name, port))?
            }
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|_| digits)?) };
        Some(Self { name, port })
    }

    /// True if both are equal for a request with this URI, whose scheme defines the default port.
    fn is(self, other: &Self, uri: &Uri) -> bool {
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        self.name.eq_ignore_ascii_case(other.name) && self.port.unwrap_or(usual) == other.port.unwrap_or(usual)
    }
}

/// True if a text is a registered name or an IPv4 address. The grammar allows a comma, but it is refused: two headers
/// that were merged into one look like that.
fn is_name(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'%' => {
                rest.next().is_some_and(|hex| hex.is_ascii_hexdigit())
                    && rest.next().is_some_and(|hex| hex.is_ascii_hexdigit())
            }
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    !text.is_empty()
}

/// Checks the transfer coding. Only `chunked` is supported (RFC 9112, 6.1). hyper has already checked that `chunked`
/// comes last.
fn transfer_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let mut codings = values.flat_map(|value| value.split(',')).map(str::trim).filter(|coding| !coding.is_empty());
    let mut chunked = 0;
    if codings.any(|coding| {
        let is_chunked = coding.eq_ignore_ascii_case("chunked");
        chunked += usize::from(is_chunked);
        !is_chunked
    }) {
        let message = "Transfer-Encoding may be chunked and nothing else";
        return Err(Problem::new(Reason::Unimplemented, message));
    }
    if chunked > 1 {
        return Err(malformed("Transfer-Encoding names chunked more than once"));
    }
    Ok(())
}

/// True if a request is addressed to this machine by a name that always means the local machine.
pub fn is_for_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or(host).and_then(Host::parse).is_some_and(|host| is_loopback(host.name))
}

/// True if an origin, as a browser formats it, is a page of this machine on any port.
pub fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let text = origin.to_str().unwrap_or_default();
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    authority.and_then(Host::parse).is_some_and(|host| is_loopback(host.name))
}

fn is_loopback(name: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn malformed(message: impl Into<String>) -> Problem {
    Problem::new(Reason::MalformedRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().version(version).uri(uri);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn a_request_has_one_host() {
        let table: [(Version, &str, &[&str], bool); 29] = [
            (Version::HTTP_11, "/", &["shop.example"], true),
            (Version::HTTP_11, "/", &["shop.example:8080"], true),
            (Version::HTTP_11, "/", &["shop.example:"], true),
            (Version::HTTP_11, "/", &["127.0.0.1"], true),
            (Version::HTTP_11, "/", &["[::1]:80"], true),
            (Version::HTTP_11, "/", &["a_b%20c"], true),
            // The Host header is empty if the target has no authority.
            (Version::HTTP_11, "/", &[""], true),
            (Version::HTTP_11, "http://a/", &["b"], true),
            (Version::HTTP_10, "/", &[], true),
            (Version::HTTP_11, "/", &[], false),
            (Version::HTTP_11, "http://a/", &[], false),
            (Version::HTTP_11, "/", &["a", "a"], false),
            (Version::HTTP_10, "/", &["a", "b"], false),
            (Version::HTTP_11, "/", &["a b"], false),
            (Version::HTTP_11, "/", &["a,b"], false),
            (Version::HTTP_11, "/", &["a/b"], false),
            (Version::HTTP_11, "/", &["user@a"], false),
            (Version::HTTP_11, "/", &["a:b"], false),
            (Version::HTTP_11, "/", &["a:65536"], false),
            (Version::HTTP_11, "/", &["a:+80"], false),
            (Version::HTTP_11, "/", &["a:1:2"], false),
            (Version::HTTP_11, "/", &["[::1"], false),
            (Version::HTTP_11, "/", &["[a]"], false),
            (Version::HTTP_11, "/", &["a%2"], false),
            (Version::HTTP_2, "http://a/", &[], true),
            (Version::HTTP_2, "https://A:443/", &["a"], true),
            (Version::HTTP_2, "/", &["a"], true),
            (Version::HTTP_2, "http://a/", &["b"], false),
            (Version::HTTP_2, "/", &[], false),
        ];
        for (version, uri, hosts, expected) in table {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let checked = check(&mut request(version, uri, &headers));
            assert_eq!(checked.is_ok(), expected, "{version:?} {uri} {hosts:?}: {checked:?}");
        }
        for uri in ["http://a:81/", "https://a:80/", "http://u@a/"] {
            assert!(check(&mut request(Version::HTTP_2, uri, &[("host", "a")])).is_err(), "{uri}");
        }
    }

    #[test]
    fn transfer_encoding_may_only_be_chunked() {
        let coded = |values: &[&str]| {
            let headers = values.iter().map(|value| ("transfer-encoding", *value)).chain([("host", "a")]);
            check(&mut request(Version::HTTP_11, "/", &headers.collect::<Vec<_>>()))
                .map_err(|problem| problem.http_status())
        };
        for right in [&["chunked"][..], &["Chunked"], &[]] {
            assert_eq!(coded(right), Ok(()), "{right:?}");
        }
        for unknown in [&["gzip, chunked"][..], &["gzip", "chunked"], &["identity, chunked"], &["chunked;a=b"]] {
            assert_eq!(coded(unknown), Err(501), "{unknown:?}");
        }
        for twice in [&["chunked, chunked"][..], &["chunked", "chunked"]] {
            assert_eq!(coded(twice), Err(400), "{twice:?}");
        }
    }

    #[test]
    fn a_single_valued_header_must_not_have_two_values() {
        for name in SINGLE {
            let with = |second: &str| {
                let headers = [("host", "a"), (name.as_str(), "1"), (name.as_str(), second)];
                check(&mut request(Version::HTTP_11, "/", &headers))
            };
            assert!(with("1").is_ok(), "{name}: the same again");
            let refused = with("2").unwrap_err();
            assert!(refused.message().contains(name.as_str()) && refused.http_status() == 400, "{refused}");
        }
        for name in NAMES {
            let mut twice =
                request(Version::HTTP_11, "/", &[("host", "a"), (name.as_str(), "1"), (name.as_str(), "2")]);
            assert!(check(&mut twice).is_ok() && !twice.headers().contains_key(name));
        }
    }

    #[test]
    fn pages_of_this_machine_are_known_by_their_origin() {
        let is = |origin: &'static str| is_loopback_origin(&HeaderValue::from_static(origin));
        for own in ["http://localhost:3000", "http://localhost", "https://127.0.0.1:8443", "http://[::1]:5173"] {
            assert!(is(own), "{own}");
        }
        for other in [
            "null",
            "",
            "localhost:3000",
            "http://localhost.evil.example",
            "http://evil.example",
            "http://localhost:3000.evil.example",
            "http://localhost@evil.example",
            "http://localhost:3000/",
            "http://127.0.0.2",
            "http://0.0.0.0:3000",
            "file://localhost",
        ] {
            assert!(!is(other), "{other}");
        }
        let is_for_loopback = |request: &Request<()>| is_for_loopback(request.uri(), request.headers());
        let asks = |host: &'static str| is_for_loopback(&request(Version::HTTP_11, "/", &[("host", host)]));
        assert!(asks("localhost:8080") && asks("127.0.0.1:8080") && !asks("evil.example:8080"));
        assert!(is_for_loopback(&request(Version::HTTP_2, "http://[::1]:8080/", &[])));
    }
}
