//! What one client may have of the gateway at a time: bodies, places and streams.

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

/// A request of the address that a trusted proxy names.
async fn get_from(souk: &Booted, address: &str, path: &str) -> Answer {
    souk.send(souk.request("GET", path).header("x-forwarded-for", address)).await
}

/// A POST whose body does not come.
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
async fn half_a_body_takes_no_place() {
    let settings = [PROXY, ("server.max_concurrent_requests", "4"), ("gateway.queue_timeout", "0s")];
    let souk = boot_with(&settings, |address| address).await;
    let token = souk.keys.token(&[], 600);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(half_sent(&souk, "198.51.100.1", None).await);
        open.push(half_sent(&souk, "198.51.100.1", Some(&token)).await);
    }
    // Nobody is kept out, not even the same address or account.
    for _ in 0..10 {
        get_from(&souk, "198.51.100.1", "/test/v1/things/1").await.ok();
        get_from(&souk, "198.51.100.2", "/test/v1/things/1").await.ok();
        souk.get_as("/test/v1/signedIn", &token).await.ok();
    }
}

#[tokio::test]
async fn bodies_of_one_address_have_a_bound_that_is_free_again_when_it_leaves() {
    // Each counts for 4 KiB.
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
async fn a_small_message_is_not_waited_for_as_long_as_a_large_one() {
    let settings = [("server.max_request_bytes", "8KiB"), ("gateway.body_timeout", "60s")];
    let souk = boot_with(&settings, |address| address).await;
    let started = std::time::Instant::now();
    let mut late = half_sent(&souk, "198.51.100.1", None).await;
    assert_eq!(status(&mut late).await, 408);
    assert!(started.elapsed() >= Duration::from_secs(5) && started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn streams_are_shared_out_by_account_and_by_address() {
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
    // Of one account, from wherever it comes.
    let third = Answer::read(open("198.51.100.9", Some(&ann)).await).await;
    assert!(third.problem(503, "OVERLOADED")["detail"].as_str().unwrap().contains("this account"), "{third:?}");
    for _ in 0..2 {
        streams.push(open("198.51.100.1", Some(&bob)).await);
    }
    // Of one address, whoever calls.
    Answer::read(open("198.51.100.1", None).await).await.problem(503, "OVERLOADED");
    let other = open("198.51.100.2", None).await;
    assert_eq!(other.status(), 200);
    drop(streams);
    wait::until(LONG, "places to be free again", async || open("198.51.100.1", Some(&ann)).await.status() == 200).await;
}

/// Health and reflection are budgeted as any call of the address is.
#[tokio::test]
async fn the_gateways_own_services_are_inside_the_budgets() {
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
    // Pages draw on the same budget; probes on none.
    souk.get("/openapi.json").await;
    souk.get("/openapi.json").await.problem(429, "RATE_LIMITED");
    for _ in 0..10 {
        souk.get("/livez").await.ok();
        souk.get("/readyz").await.ok();
    }
}

/// What a client gets that is refused before its token is looked at is what it gets afterwards.
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
