//! Response headers: caching, conditional requests, CORS and compression.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use reqwest::StatusCode;
use souk_testkit::wait;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    boot::{Answer, Booted, boot, boot_with},
    edge::{LONG, waiting},
};

/// Sends a GET with headers.
async fn get(souk: &Booted, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(souk, "GET", path, headers).await
}

async fn send(souk: &Booted, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(souk.request(method, path), |request, (name, value)| request.header(*name, *value));
    souk.send(request).await
}

/// All values of a header, in lower case.
fn all(answer: &Answer, name: &str) -> String {
    let values = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_lowercase());
    values.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn cache_control_says_who_may_cache_a_response_and_for_how_long() {
    let souk = boot().await;
    let bearer = format!("Bearer {}", souk.keys.token(&[], 60));
    let token: &[(&str, &str)] = &[("authorization", &bearer)];
    let cases = [
        ("/test/v1/cached/a", &[][..], "public, max-age=5, stale-while-revalidate=30"),
        // The service may return more to this caller than to others.
        ("/test/v1/cached/a", token, "private, max-age=5, stale-while-revalidate=30"),
        ("/test/v1/untagged/a", &[], "public, no-cache"),
        ("/test/v1/personal/a/cached", token, "private, no-cache"),
        ("/test/v1/personal/a", token, "no-store"),
        // The method is not declared to be safe.
        ("/test/v1/things", &[], "no-store"),
        ("/test/v1/personal/a", &[], "no-store"),
        ("/livez", &[], "no-store"),
    ];
    for (path, headers, expected) in cases {
        let answer = get(&souk, path, headers).await;
        assert_eq!(all(&answer, "cache-control"), expected, "{path}: {answer:?}");
        let kept = answer.status == StatusCode::OK && answer.headers.contains_key("etag");
        assert_eq!(kept, all(&answer, "vary").contains("authorization, accept-encoding"), "{path}: {answer:?}");
        assert!(answer.headers.contains_key("date"), "{answer:?}");
    }
    let posted = souk.json("POST", "/test/v1/untagged", "{}").await;
    assert_eq!((posted.header("cache-control"), posted.header("etag")), ("no-store", ""));
}

#[tokio::test]
async fn a_client_with_the_current_etag_gets_304() {
    let souk = boot().await;
    let path = "/test/v1/cached/a?etag=v1";
    let first = get(&souk, path, &[]).await;
    first.ok();
    assert_eq!(first.header("etag"), r#""v1""#, "the message's own");
    let cases = [
        (r#""v1""#, 304),
        (r#"W/"v1""#, 304),
        (r#""v0", "v1""#, 304),
        ("*", 304),
        (r#""v0""#, 200),
        ("v1", 200),
        // The tags of compressed responses, which this client does not accept.
        (r#""v1--gzip""#, 200),
        (r#""v1-gzip""#, 200),
    ];
    for (known, expected) in cases {
        for method in ["GET", "HEAD"] {
            let answer = send(&souk, method, path, &[("if-none-match", known)]).await;
            assert_eq!(answer.status.as_u16(), expected, "{known}: {answer:?}");
            assert_eq!(answer.header("etag"), r#""v1""#);
            for name in ["cache-control", "vary"] {
                assert_eq!(all(&answer, name), all(&first, name), "{known}");
            }
            assert_eq!(answer.status == 304, answer.header("content-type").is_empty(), "{answer:?}");
        }
    }
    let failed = get(&souk, "/test/v1/cached/a?what=1", &[("if-none-match", "*")]).await;
    failed.problem(400, "UNKNOWN_FIELD");
    assert_eq!(failed.header("etag"), "");

    // If the message has no tag, the tag is a hash. It is equal for equal messages, in any order of their maps.
    let path = "/test/v1/untagged/a";
    let tag = get(&souk, path, &[]).await.header("etag").to_owned();
    assert!(tag.len() > 20 && !tag.starts_with("W/"), "{tag}");
    assert_eq!(get(&souk, path, &[("if-none-match", &tag)]).await.status, 304);
    assert_ne!(get(&souk, "/test/v1/untagged/b", &[]).await.header("etag"), tag);
    // Browsers do not cache personal responses, but a program may store them and send their tag.
    let bearer = format!("Bearer {}", souk.keys.token(&[], 60));
    let known = [("authorization", &*bearer), ("if-none-match", r#""v1""#)];
    let personal = get(&souk, "/test/v1/personal/a?etag=v1", &known).await;
    assert_eq!((personal.status.as_u16(), personal.header("cache-control")), (304, "no-store"));
}

#[tokio::test]
async fn if_match_allows_only_changes_of_the_current_version() {
    let souk = boot().await;
    let post = async |tag: Option<&str>, body: &str| {
        let request = souk.request("POST", "/test/v1/guarded/a").body(body.to_owned());
        souk.send(tag.into_iter().fold(request, |request, tag| request.header("if-match", tag))).await
    };
    assert_eq!(post(Some(r#""current""#), "{}").await.ok()["request"]["etag"], "current");
    // The tag of the compressed response.
    assert_eq!(post(Some(r#""current--gzip""#), "{}").await.ok()["request"]["etag"], "current");
    assert_eq!(post(Some("*"), "{}").await.ok()["request"]["etag"], "");
    post(Some(r#""current""#), r#"{"etag": "current"}"#).await.ok();

    post(Some(r#""old""#), "{}").await.problem(412, "ETAG_MISMATCH");
    post(None, r#"{"etag": "old"}"#).await.problem(409, "ETAG_MISMATCH");
    // The tags that compressing proxies send: nginx, Apache.
    for tag in [r#"W/"current""#, r#""current-gzip""#, r#"W/"current-br""#, r#""old", W/"older", "current", "new""#] {
        assert_eq!(post(Some(tag), "{}").await.ok()["request"]["etag"], "current", "{tag}");
    }
    assert_eq!(post(Some(r#""old", "current""#), r#"{"etag": "current"}"#).await.ok()["request"]["etag"], "current");
    // An empty tag matches nothing. It must not allow the change.
    for tag in [r#""old", "older""#, r#"W/"old""#, r#""""#, r#"W/"--gzip""#, r#""-gzip""#] {
        post(Some(tag), "{}").await.problem(412, "ETAG_MISMATCH");
    }
    let differs = post(Some(r#""current""#), r#"{"etag": "old"}"#).await.problem(400, "MALFORMED_REQUEST");
    assert_eq!(differs["errors"][0]["field"], "etag");
    let many: String = (0..9).map(|number| format!("\"{number}\",")).collect();
    for wrong in [&*many, "current", "\"current", "", r#""current" "old""#] {
        let refused = post(Some(wrong), "{}").await.problem(400, "MALFORMED_REQUEST");
        assert!(refused["detail"].as_str().unwrap().contains("If-Match"), "{refused}");
    }
    // An `If-Match` that does not apply is refused, not ignored.
    let everything = souk.request("POST", "/test/v1/everything").header("if-match", r#""a""#);
    souk.send(everything).await.problem(400, "MALFORMED_REQUEST");
}

#[tokio::test]
async fn responses_are_compressed_for_clients_that_accept_it() {
    let souk = boot().await;
    let large = format!("/test/v1/cached/a?etag=v1&tags={}", "x".repeat(2000));
    let plain = get(&souk, &large, &[]).await;
    plain.ok();
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), ("", r#""v1""#));
    for accept in ["gzip", "br, GZIP;q=0.5", "gzip;q=0.1, deflate;q=0"] {
        let request = souk.request("GET", &large).header("accept-encoding", accept).send().await.unwrap();
        let headers = request.headers().clone();
        assert_eq!(headers["content-encoding"], "gzip", "{accept}");
        assert_eq!(headers["etag"], r#""v1--gzip""#);
        assert_eq!(headers.get_all("vary").iter().count(), 1, "{headers:?}");
        let bytes = request.bytes().await.unwrap();
        assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() < 1500, "{}", bytes.len());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["tags"][0].as_str().unwrap().len(), 2000);
        let head = send(&souk, "HEAD", &large, &[("accept-encoding", accept)]).await;
        for name in ["content-encoding", "etag", "vary", "cache-control", "content-type", "content-length"] {
            assert_eq!(head.headers.get(name), headers.get(name), "{name}");
        }
        for known in [r#""v1--gzip""#, r#""v1""#] {
            let again = get(&souk, &large, &[("accept-encoding", accept), ("if-none-match", known)]).await;
            assert_eq!((again.status.as_u16(), again.header("etag")), (304, known));
        }
        // A proxy adds its suffix again.
        let again = get(&souk, &large, &[("accept-encoding", accept), ("if-none-match", r#""v1-gzip""#)]).await;
        assert_eq!((again.status.as_u16(), again.header("etag")), (304, r#""v1""#));
    }
    for accept in ["", "br", "gzip;q=0", "identity"] {
        let answer = get(&souk, &large, &[("accept-encoding", accept)]).await;
        assert_eq!(answer.header("content-encoding"), "", "{accept}");
        answer.ok();
    }
    let small = get(&souk, "/test/v1/untagged/a", &[("accept-encoding", "gzip")]).await;
    assert_eq!(small.header("content-encoding"), "");
    small.ok();
    let off = boot_with(&[("gateway.compression", "false")], |address| address).await;
    assert_eq!(get(&off, &large, &[("accept-encoding", "gzip")]).await.header("content-encoding"), "");
}

#[tokio::test]
async fn a_deprecated_method_has_deprecation_headers() {
    let souk = boot().await;
    let old = souk.get("/test/v1/old").await;
    old.ok();
    let expected = [
        ("deprecation", "@1769817600"),
        ("sunset", "Sat, 31 Jul 2027 23:59:59 GMT"),
        ("link", r#"</docs#old>; rel="deprecation""#),
    ];
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let call = http2.post(format!("{}/souk.test.v1.EchoService/Old", souk.url));
    let grpc = call.header("content-type", "application/grpc").header("te", "trailers").body(vec![0; 5]);
    let grpc =
        Answer { status: old.status, headers: grpc.send().await.unwrap().headers().clone(), text: String::new() };
    for (name, value) in expected {
        assert_eq!((old.header(name), grpc.header(name)), (value, value));
    }
    let failed = souk.get("/test/v1/old?what=1").await;
    failed.problem(400, "UNKNOWN_FIELD");
    assert_eq!(failed.header("deprecation"), "@1769817600");
    assert_eq!(souk.get("/test/v1/things").await.header("deprecation"), "");
}

#[tokio::test]
async fn every_response_has_security_headers() {
    let souk = boot().await;
    for path in ["/test/v1/things", "/test/v1/nothing", "/livez", "/", "/test/v1/signedIn"] {
        let answer = souk.get(path).await;
        let expected = [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("strict-transport-security", ""),
            ("server", ""),
        ];
        for (name, value) in expected {
            assert_eq!(answer.header(name), value, "{path}");
        }
    }
    // Headers do not change the method, and some headers are not passed on.
    for name in ["x-http-method-override", "x-method-override", "x-http-method"] {
        let answer = send(&souk, "GET", "/test/v1/things/1", &[(name, "PATCH")]).await.ok();
        assert_eq!(answer["method"], "Get");
    }
    for path in ["/test/v1/anyhow", "/test/v1/things", "/livez"] {
        send(&souk, "TRACE", path, &[("x-secret", "1")]).await.problem(405, "METHOD_NOT_ALLOWED");
    }
}

const PAGE: &str = "https://shop.example";

#[tokio::test]
async fn pages_of_allowed_origins_may_call() {
    let settings = [
        ("gateway.cors.allowed_origins", "https://shop.example,http://localhost:5173"),
        ("gateway.cors.max_age", "5m"),
    ];
    let souk = boot_with(&settings, |address| address).await;
    let preflight = async |path: &str, origin: &str| {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "authorization"),
        ];
        send(&souk, "OPTIONS", path, &asks).await
    };
    let allowed = preflight("/test/v1/things/1", PAGE).await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.header("access-control-allow-origin"), PAGE);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        assert!(allowed.header("access-control-allow-methods").contains(method), "{allowed:?}");
    }
    assert_eq!(allowed.header("access-control-max-age"), "300");
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    for name in ["authorization", "idempotency-key", "if-match", "x-grpc-web", "connect-protocol-version"] {
        assert!(allowed.header("access-control-allow-headers").contains(name), "{allowed:?}");
    }
    assert!(all(&allowed, "vary").contains("origin"), "{allowed:?}");
    // A preflight request does not call a route that accepts any method.
    let any = preflight("/test/v1/anyhow", PAGE).await;
    assert_eq!((any.status, any.text.as_str()), (StatusCode::OK, ""));
    // An OPTIONS request that is no preflight returns the allowed methods of the path.
    let options = send(&souk, "OPTIONS", "/test/v1/things/1", &[("origin", PAGE)]).await;
    assert_eq!(options.status, StatusCode::NO_CONTENT);
    assert!(options.header("allow").contains("PATCH") && !options.header("allow").contains("DELETE"));
    send(&souk, "OPTIONS", "/test/v1/nothing", &[]).await.problem(404, "ROUTE_NOT_FOUND");

    for origin in ["https://evil.example", "https://shop.example.evil", "null", "http://shop.example"] {
        let refused = preflight("/test/v1/things/1", origin).await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{refused:?}");
        assert!(all(&refused, "vary").contains("origin"));
        let answer = get(&souk, "/test/v1/things/1", &[("origin", origin)]).await;
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    // gRPC-Web calls come from pages, too.
    let web = souk.request("POST", "/souk.test.v1.EchoService/Get").header("origin", PAGE);
    let web = web.header("content-type", "application/grpc-web+proto").body(vec![0; 5]).send().await.unwrap();
    assert_eq!(web.headers().get("access-control-allow-origin").unwrap(), PAGE);
    // Pages can read errors, too, and a cache does not mix responses for different origins.
    for (path, status) in [("/test/v1/things/1", 200), ("/test/v1/signedIn", 401), ("/test/v1/nothing", 404)] {
        let answer = get(&souk, path, &[("origin", PAGE)]).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (status, PAGE));
        for name in ["x-request-id", "etag", "retry-after", "ratelimit", "grpc-status", "idempotent-replayed"] {
            assert!(answer.header("access-control-expose-headers").contains(name), "{answer:?}");
        }
        assert!(all(&get(&souk, path, &[]).await, "vary").contains("origin"));
    }
}

#[tokio::test]
async fn all_origins_or_none_can_be_allowed() {
    let none = boot().await;
    let answer = get(&none, "/test/v1/things/1", &[("origin", PAGE)]).await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    assert!(!all(&answer, "vary").contains("origin"));
    let any = boot_with(&[("gateway.cors.allowed_origins", "*")], |address| address).await;
    let answer = get(&any, "/test/v1/things/1", &[("origin", PAGE)]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(!all(&answer, "vary").contains("origin"));
    let trusted = [("gateway.cors.allowed_origins", PAGE), ("gateway.cors.allow_credentials", "true")];
    let trusted = boot_with(&trusted, |address| address).await;
    let answer = get(&trusted, "/test/v1/things/1", &[("origin", PAGE)]).await;
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn the_loopback_setting_allows_only_pages_of_this_machine() {
    let souk = boot_with(&[("gateway.cors.allowed_origins", "loopback")], |address| address).await;
    let port = souk.url.rsplit(':').next().unwrap();
    let ask = async |origin: &str, host: &str| {
        let host = format!("{host}:{port}");
        let headers = [("origin", origin), ("host", &host), ("access-control-request-method", "GET")];
        let preflight = send(&souk, "OPTIONS", "/test/v1/things/1", &headers).await;
        let answer = send(&souk, "GET", "/test/v1/things/1", &headers[..2]).await;
        answer.ok();
        assert!(all(&answer, "vary").contains("origin"), "{answer:?}");
        let allowed = answer.header("access-control-allow-origin") == origin;
        assert_eq!(allowed, preflight.header("access-control-allow-origin") == origin, "{preflight:?}");
        allowed
    };
    for origin in ["http://localhost:3000", "http://localhost", "http://127.0.0.1:5173", "https://[::1]:8443"] {
        for host in ["localhost", "127.0.0.1"] {
            assert!(ask(origin, host).await, "{origin} to {host}");
        }
        // A proxy for other hosts, and a foreign name that resolves to this address.
        assert!(!ask(origin, "shop.example").await, "{origin}");
    }
    for origin in ["null", "https://evil.example", "http://localhost.evil.example", "http://evil.example:3000"] {
        assert!(!ask(origin, "localhost").await, "{origin}");
    }
}

/// Stores the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Other tests of the process may log, too, so each line is recognised by values of this test.
#[tokio::test]
async fn each_request_is_logged_once_with_its_route() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let settings = [("server.max_concurrent_requests", "1"), ("server.deadline", "60s")];
    let souk = boot_with(&settings, |address| address).await;
    let token = souk.keys.token(&[], 60);
    let request = souk.request("GET", "/test/v1/personal/sensitive?etag=hidden");
    let personal = souk.send(request.bearer_auth(&token).header("x-request-id", "log-1")).await;
    personal.ok();
    let miss = souk.request("GET", "/nowhere/sensitive").header("x-request-id", "log-2");
    souk.send(miss).await.problem(404, "ROUTE_NOT_FOUND");
    let lines = || {
        let lines = log.lines().into_iter().filter(|line| line.contains(r#""target":"access""#));
        lines.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap()).collect::<Vec<_>>()
    };
    let of = |id: &str| lines().into_iter().filter(|line| line["span"]["request_id"] == id).collect::<Vec<_>>();
    wait::until(LONG, "both to be logged", async || of("log-1").len() + of("log-2").len() == 2).await;
    let (first, miss) = (&of("log-1")[0], &of("log-2")[0]);
    assert_eq!(first["level"], "INFO");
    assert_eq!(first["fields"]["route"], "/test/v1/personal/{name}");
    assert_eq!((&first["fields"]["status"], &first["fields"]["method"]), (&200.into(), &"GET".into()));
    assert_eq!(first["fields"]["bytes"], personal.text.len());
    assert!(first["fields"]["elapsed"].is_string());
    assert_eq!(first["span"]["souk.caller"], "user");
    assert_eq!((&miss["fields"]["route"], &miss["fields"]["status"]), (&"".into(), &404.into()));
    // A client that leaves before the response.
    waiting(&souk).await.abort();
    wait::until(LONG, "who has left to be logged", async || {
        let left = |line: &serde_json::Value| line["fields"]["status"] == 499;
        lines().iter().any(|line| left(line) && line["fields"]["route"] == "/test/v1/fail/{name}")
    })
    .await;
    let text = log.lines().join("\n");
    assert!(!text.contains("sensitive") && !text.contains("hidden") && !text.contains(&token), "{text}");
}
