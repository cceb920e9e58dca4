//! The most that one client may use of the gateway at a time: bodies, places and streams.

use std::time::Duration;

use souk_testkit::wait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    boot::{Answer, Booted, boot_with},
    edge::{LONG, connect},
};

/// Sends a request through a trusted proxy for this address.
async fn get_from(souk: &Booted, address: &str, path: &str) -> Answer {
    souk.send(souk.request("GET", path).header("x-forwarded-for", address)).await
}

/// Sends a POST without its body.
async fn half_sent(souk: &Booted, address: &str, token: Option<&str>) -> TcpStream {
    let mut stream = connect(&souk.url).await;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /test/v1/everything HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\
         x-forwarded-for: {address}\r\n{token}\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    tokio::time::timeout(LONG, stream.read_exact(&mut head)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&head[9..]).parse().unwrap()
}

const PROXY: (&str, &str) = ("gateway.trusted_proxies", "127.0.0.1");

#[tokio::test]
async fn an_incomplete_body_takes_no_place_of_a_request() {
    let settings = [PROXY, ("server.max_concurrent_requests", "4"), ("gateway.queue_timeout", "0s")];
    let souk = boot_with(&settings, |address| address).await;
    let token = souk.keys.token(&[], 600);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(half_sent(&souk, "198.51.100.1", None).await);
        open.push(half_sent(&souk, "198.51.100.1", Some(&token)).await);
    }
    // No request is blocked, not even of the same address or account.
    for _ in 0..10 {
        get_from(&souk, "198.51.100.1", "/test/v1/things/1").await.ok();
        get_from(&souk, "198.51.100.2", "/test/v1/things/1").await.ok();
        souk.get_as("/test/v1/signedIn", &token).await.ok();
    }
}

#[tokio::test]
async fn the_bytes_of_bodies_of_one_address_are_limited_and_freed_when_it_leaves() {
    // Each body counts as 4 KiB.
    let settings = [PROXY, ("server.max_request_bytes", "8KiB"), ("gateway.body.max_bytes_per_address", "16KiB")];
    let souk = boot_with(&settings, |address| address).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(half_sent(&souk, "198.51.100.1", None).await);
    }
    wait::until(LONG, "the address to have its share", async || {
        let mut fifth = half_sent(&souk, "198.51.100.1", None).await;
        let answered = tokio::time::timeout(Duration::from_millis(200), status(&mut fifth)).await;
        answered.is_ok_and(|status| status == 503)
    })
    .await;
    let post = async |address: &str| {
        let request = souk.request("POST", "/test/v1/everything").header("content-type", "application/json");
        souk.send(request.header("x-forwarded-for", address).body("{}")).await
    };
    post("198.51.100.1").await.problem(503, "OVERLOADED");
    post("198.51.100.2").await.ok();
    get_from(&souk, "198.51.100.1", "/test/v1/things/1").await.ok();
    drop(open);
    wait::until(LONG, "the share to be free", async || post("198.51.100.1").await.status == 200).await;
}

#[tokio::test]
async fn a_method_with_small_messages_allows_less_time_for_the_body() {
    let settings = [("server.max_request_bytes", "8KiB"), ("gateway.body_timeout", "60s")];
    let souk = boot_with(&settings, |address| address).await;
    let started = std::time::Instant::now();
    let mut late = half_sent(&souk, "198.51.100.1", None).await;
    assert_eq!(status(&mut late).await, 408);
    assert!(started.elapsed() >= Duration::from_secs(5) && started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn streams_are_limited_by_account_and_by_address() {
    let settings = [
        PROXY,
        ("gateway.stream.max_open", "12"),
        ("gateway.stream.max_open_per_address", "4"),
        ("gateway.stream.max_open_per_caller", "2"),
    ];
    let souk = boot_with(&settings, |address| address).await;
    let open = async |address: &str, token: Option<&str>| {
        let request = souk.request("GET", "/test/v1/follow?until=1&then=wait").header("x-forwarded-for", address);
        match token {
            Some(token) => request.bearer_auth(token).send().await.unwrap(),
            None => request.send().await.unwrap(),
        }
    };
    let (ann, bob) = (souk.keys.token(&[], 600), souk.keys.token(&[], 600));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let stream = open("198.51.100.1", Some(&ann)).await;
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    // Of one account, from any address.
    let third = Answer::read(open("198.51.100.9", Some(&ann)).await).await;
    assert!(third.problem(503, "OVERLOADED")["detail"].as_str().unwrap().contains("this account"), "{third:?}");
    for _ in 0..2 {
        streams.push(open("198.51.100.1", Some(&bob)).await);
    }
    // Of one address, with any account.
    Answer::read(open("198.51.100.1", None).await).await.problem(503, "OVERLOADED");
    let other = open("198.51.100.2", None).await;
    assert_eq!(other.status(), 200);
    drop(streams);
    wait::until(LONG, "places to be free again", async || open("198.51.100.1", Some(&ann)).await.status() == 200).await;
}

/// Calls of health and reflection use the budget of the address.
#[tokio::test]
async fn the_gateways_own_services_use_the_budget_of_the_address() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let settings = [
        ("gateway.stream.max_open_per_address", "3"),
        ("gateway.rate_limits.read.per_address.rate", "1/h"),
        ("gateway.rate_limits.read.per_address.burst", "5"),
    ];
    let souk = boot_with(&settings, |address| address).await;
    let mut health = HealthClient::new(souk.channel().await);
    let mut watches = Vec::new();
    for _ in 0..3 {
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watches.push(watch);
    }
    let refused = health.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    drop(watches);
    // Pages use the same budget; probes use none.
    souk.get("/openapi.json").await;
    souk.get("/openapi.json").await.problem(429, "RATE_LIMITED");
    for _ in 0..10 {
        souk.get("/livez").await.ok();
        souk.get("/readyz").await.ok();
    }
}

/// A request that is refused before its token is checked gets the same error as one that is refused later.
#[tokio::test]
async fn an_exhausted_address_is_refused_at_once_with_the_same_error() {
    let settings = [
        PROXY,
        ("gateway.rate_limits.read.per_address.rate", "1/h"),
        ("gateway.rate_limits.read.per_address.burst", "2"),
    ];
    let souk = boot_with(&settings, |address| address).await;
    for _ in 0..2 {
        get_from(&souk, "198.51.100.1", "/openapi.json").await.ok();
    }
    let refusals = [
        get_from(&souk, "198.51.100.1", "/openapi.json").await,
        get_from(&souk, "198.51.100.1", "/openapi.json").await,
    ];
    for refusal in &refusals {
        refusal.problem(429, "RATE_LIMITED");
        assert!((3590..=3600).contains(&refusal.header("retry-after").parse().unwrap()), "{refusal:?}");
        assert!(refusal.header("ratelimit").starts_with(r#""read-address";r=0;t=7"#), "{refusal:?}");
    }
    get_from(&souk, "198.51.100.2", "/openapi.json").await.ok();
}
