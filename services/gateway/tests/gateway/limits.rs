//! Budgets of requests over the wire: by class, caller and address, in memory and shared through a real Redis.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use souk_common::error::{Problem, Reason};
use souk_testkit::{
    proxy::Proxy,
    servers::{self, Server, ServerTls},
    tls::Authority,
    wait,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedReadHalf,
};
use tonic::{Code, client::Grpc};

use crate::{
    boot::{Answer, Booted, boot_with},
    connections::from,
};

const LONG: Duration = Duration::from_secs(60);

/// Budgets so slow that nothing is refilled while a test runs.
const SLOW: [(&str, &str); 4] = [
    ("gateway.rate_limits.auth.per_address.rate", "1/h"),
    ("gateway.rate_limits.auth.per_address.burst", "4"),
    ("gateway.rate_limits.read.per_caller.rate", "1/h"),
    ("gateway.rate_limits.read.per_caller.burst", "2"),
];

/// A gateway with these budgets that takes the test for a proxy.
async fn slow(more: &[(&str, &str)]) -> Booted {
    let proxies = [("gateway.trusted_proxies", "127.0.0.0/8")];
    boot_with(&[&SLOW[..], &proxies, more].concat(), |address| address).await
}

/// Logs in from an address, by way of a proxy.
async fn log_in(souk: &Booted, from: &str) -> Answer {
    souk.send(souk.request("POST", "/test/v1/logIn").header("x-forwarded-for", from)).await
}

/// How many of so many log-ins pass.
async fn passing(souk: &Booted, from: &str, times: usize) -> usize {
    let mut passed = 0;
    for _ in 0..times {
        let answer = log_in(souk, from).await;
        match answer.status {
            StatusCode::OK => passed += 1,
            _ => drop(answer.problem(429, "RATE_LIMITED")),
        }
    }
    passed
}

#[tokio::test]
async fn a_used_up_budget_is_refused_with_retry_after() {
    let souk = slow(&[]).await;
    for left in (0..4).rev() {
        let answer = log_in(&souk, "198.51.100.1").await;
        answer.ok();
        assert_eq!(answer.header("ratelimit-policy"), r#""auth-address";q=4;w=14400"#);
        let expected = format!(r#""auth-address";r={left};t="#);
        assert!(answer.header("ratelimit").starts_with(&expected), "{answer:?}");
    }
    let refused = log_in(&souk, "198.51.100.1").await;
    let problem = refused.problem(429, "RATE_LIMITED");
    assert!(problem["detail"].as_str().unwrap().contains("auth requests (4 at once"), "{problem}");
    assert!(refused.header("ratelimit").starts_with(r#""auth-address";r=0;t=14"#), "{refused:?}");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    // Other addresses and other classes have budgets of their own.
    log_in(&souk, "198.51.100.2").await.ok();
    let other = souk.send(souk.request("GET", "/test/v1/kept/a").header("x-forwarded-for", "198.51.100.1")).await;
    other.ok();
    assert!(other.header("ratelimit").starts_with(r#""read-address""#), "{other:?}");
    // The gateway's own pages are nobody's budget.
    assert_eq!(souk.get("/livez").await.header("ratelimit"), "");
}

#[tokio::test]
async fn grpc_draws_on_the_same_budgets() {
    let souk = slow(&[]).await;
    assert_eq!(passing(&souk, "127.0.0.1", 4).await, 4);
    let mut client = Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    let path = "/souk.test.v1.EchoService/LogIn".parse().unwrap();
    let status = client.unary(tonic::Request::new(Vec::new()), path, crate::grpc::Raw).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let problem = Problem::from_status(&status);
    assert_eq!(problem.reason(), Reason::RateLimited);
    assert!(problem.retry_delay().unwrap() > Duration::from_secs(3500));
}

#[tokio::test]
async fn a_caller_has_one_budget_wherever_they_are_and_takes_none_of_others() {
    let souk = slow(&[]).await;
    let (ann, bob) = (souk.keys.token(&[], 600), souk.keys.token(&[], 600));
    let read = async |token: &str, from: &str| {
        let request = souk.request("GET", "/test/v1/read").bearer_auth(token).header("x-forwarded-for", from);
        souk.send(request).await.status.as_u16()
    };
    assert_eq!(read(&ann, "198.51.100.1").await, 200);
    assert_eq!(read(&ann, "198.51.100.2").await, 200);
    assert_eq!(read(&ann, "198.51.100.3").await, 429);
    assert_eq!(read(&bob, "198.51.100.1").await, 200);
}

/// Budgets for calls that cost more.
const COSTS: [(&str, &str); 2] =
    [("gateway.rate_limits.read.per_address.rate", "1/h"), ("gateway.rate_limits.read.per_address.burst", "40")];

/// Calls cost what the contract says: every call 2, one with a name 5 more, one with tags 1 more for each two.
async fn calls_cost_what_they_ask_for(souk: &Booted, from: &str) {
    let get = async |path: &str| souk.send(souk.request("GET", path).header("x-forwarded-for", from)).await;
    let left =
        |answer: &Answer| -> String { answer.header("ratelimit").split(';').nth(1).unwrap_or_default().to_owned() };
    assert_eq!(left(&get("/test/v1/search").await), "r=38");
    assert_eq!(left(&get("/test/v1/search?name=x").await), "r=31");
    assert_eq!(left(&get("/test/v1/search?tags=a").await), "r=29");
    assert_eq!(left(&get("/test/v1/search?tags=a&tags=b&tags=c&tags=d&tags=e").await), "r=25");
    // The same by Connect, in both of its forms.
    let connect = |content_type: &str, body: Vec<u8>| {
        let request = souk.request("POST", "/souk.test.v1.EchoService/Search").header("x-forwarded-for", from);
        souk.send(request.header("content-type", content_type).body(body))
    };
    assert_eq!(left(&connect("application/json", br#"{"name":"x"}"#.to_vec()).await), "r=18");
    assert_eq!(left(&connect("application/proto", vec![0x0a, 1, b'x']).await), "r=11");
    // By gRPC, which tells nothing of what is left.
    let mut client = Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(vec![0x0a, 1, b'x']);
    request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
    let path = || "/souk.test.v1.EchoService/Search".parse().unwrap();
    client.unary(request, path(), crate::grpc::Raw).await.unwrap();
    let refused = get("/test/v1/search?name=x").await;
    let problem = refused.problem(429, "RATE_LIMITED");
    assert!(problem["detail"].as_str().unwrap().contains("what this call asks for counts as 5"), "{problem}");
    // What every call costs was taken, the surcharge was not.
    assert_eq!(left(&refused), "r=2");
    assert!((7200..=3 * 3600).contains(&refused.header("retry-after").parse().unwrap()), "{refused:?}");
    get("/test/v1/search").await.ok();
    get("/test/v1/search").await.problem(429, "RATE_LIMITED");
}

#[tokio::test]
async fn calls_cost_what_they_ask_for_on_every_protocol() {
    calls_cost_what_they_ask_for(&slow(&COSTS).await, "198.51.100.1").await;
}

#[tokio::test]
async fn calls_cost_what_they_ask_for_where_budgets_are_shared() {
    let server = redis(servers::redis).await;
    let shared_with = [("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")];
    let one = slow(&[&COSTS[..], &shared_with].concat()).await;
    shared(&one, &sharing(&server).await).await;
    calls_cost_what_they_ask_for(&one, "198.51.100.1").await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn tokens_that_are_tried_count_by_the_address() {
    let small =
        [("gateway.rate_limits.read.per_address.rate", "1/h"), ("gateway.rate_limits.read.per_address.burst", "3")];
    let souk = slow(&small).await;
    let tried = async || souk.get_as("/test/v1/read", "not.a.token").await;
    for _ in 0..3 {
        tried().await.problem(401, "TOKEN_INVALID");
    }
    tried().await.problem(429, "RATE_LIMITED");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_is_not_believed() {
    let souk = boot_with(&SLOW, |address| address).await;
    let mut passed = 0;
    for number in 0..6 {
        passed += passing(&souk, &format!("198.51.100.{number}"), 1).await;
    }
    assert_eq!(passed, 4);
}

#[tokio::test]
async fn limits_can_be_turned_off() {
    let souk = slow(&[("gateway.rate_limits.enabled", "false")]).await;
    assert_eq!(passing(&souk, "198.51.100.1", 10).await, 10);
    assert_eq!(log_in(&souk, "198.51.100.1").await.header("ratelimit"), "");
}

pub async fn redis(start: impl FnOnce() -> anyhow::Result<Server> + Send + 'static) -> Server {
    tokio::task::spawn_blocking(start).await.unwrap().unwrap()
}

/// A gateway that shares its budgets. On a busy machine a moment without an answer is no loss yet.
async fn sharing(server: &Server) -> Booted {
    slow(&[("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")]).await
}

/// Waits until what one takes, the other misses.
async fn shared(one: &Booted, other: &Booted) {
    let mut site = 0;
    wait::until(LONG, "budgets to be shared", async || {
        site += 1;
        let from = format!("203.0.113.{site}");
        passing(one, &from, 4).await + passing(other, &from, 4).await == 4
    })
    .await;
}

#[tokio::test]
async fn two_gateways_share_their_budgets_through_redis() {
    let server = redis(servers::redis).await;
    let (one, other) = (sharing(&server).await, sharing(&server).await);
    shared(&one, &other).await;
    assert_eq!(passing(&one, "198.51.100.1", 3).await, 3);
    assert_eq!(passing(&other, "198.51.100.1", 3).await, 1);
    assert_eq!(passing(&one, "198.51.100.1", 3).await, 0);
    let refused = log_in(&other, "198.51.100.1").await;
    assert!((3500..=3600).contains(&refused.header("retry-after").parse().unwrap()), "{refused:?}");
    assert!(refused.header("ratelimit").starts_with(r#""auth-address";r=0;t=14"#), "{refused:?}");
    // A caller's budget is looked at first, and what it refuses takes nothing from the address.
    let token = one.keys.token(&[], 600);
    let statuses = [200, 200, 429, 429];
    for expected in statuses {
        assert_eq!(one.get_as("/test/v1/read", &token).await.status, expected);
    }
    // Many at once are counted exactly.
    let all = (0..40).map(|number| log_in(if number % 2 == 0 { &one } else { &other }, "198.51.100.9"));
    let all = futures::future::join_all(all).await;
    assert_eq!(all.iter().filter(|answer| answer.status == StatusCode::OK).count(), 4);
}

/// A Redis that speaks TLS alone, by a certificate of its own authority, and asks for one.
#[tokio::test]
async fn two_gateways_share_their_budgets_through_redis_by_tls() {
    let authority = Authority::new();
    let (tls, own) =
        (ServerTls { own: authority.sign("redis"), ca: authority.certificate() }, authority.sign("gateway"));
    let server = redis(move || servers::redis_tls(&tls)).await;
    let (ca, stranger) = (authority.certificate(), Authority::new());
    let ca = ca.to_str().unwrap();
    let settings = [
        ("gateway.redis_url", server.url()),
        ("gateway.redis_timeout", "5s"),
        ("gateway.redis_tls.ca", ca),
        ("gateway.redis_tls.certificate", own.certificate.to_str().unwrap()),
        ("gateway.redis_tls.key", own.key.to_str().unwrap()),
    ];
    let (one, other) = (slow(&settings).await, slow(&settings).await);
    shared(&one, &other).await;
    assert_eq!(passing(&one, "198.51.100.1", 3).await, 3);
    assert_eq!(passing(&other, "198.51.100.1", 3).await, 1);
    // Whom the authority did not sign is not asked, and each counts for itself.
    let stranger = stranger.certificate();
    let settings =
        settings.map(|(name, value)| if value == ca { (name, stranger.to_str().unwrap()) } else { (name, value) });
    assert_eq!(passing(&slow(&settings).await, "198.51.100.1", 6).await, 4);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn redis_killed_is_done_without_and_shared_through_again() {
    let server = redis(servers::redis).await;
    let port = server.port();
    let (one, other) = (sharing(&server).await, sharing(&server).await);
    shared(&one, &other).await;
    assert_eq!(passing(&one, "198.51.100.1", 4).await, 4);
    assert_eq!(passing(&other, "198.51.100.1", 1).await, 0, "shared before");

    kill_process(Pid::from_raw(server.pid().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    // Each counts for itself now: no request fails, and none is without limit.
    for souk in [&one, &other] {
        assert_eq!(passing(souk, "198.51.100.2", 6).await, 4);
    }
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();

    let server = redis(move || servers::redis_at(port)).await;
    shared(&one, &other).await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn redis_that_says_nothing_holds_up_the_first_request_alone() {
    let server = redis(servers::redis).await;
    let between = Proxy::before(server.url()).await;
    let url = between.url(server.url());
    let souk = slow(&[("gateway.redis_url", url.as_str()), ("gateway.redis_timeout", "2s")]).await;
    assert_eq!(passing(&souk, "198.51.100.1", 4).await, 4);
    assert_eq!(passing(&souk, "198.51.100.1", 1).await, 0);

    between.stall();
    let waited = Instant::now();
    assert_eq!(passing(&souk, "198.51.100.2", 1).await, 1, "the gateway's own budget");
    assert!(waited.elapsed() >= Duration::from_secs(2), "it was asked: {:?}", waited.elapsed());
    let waited = Instant::now();
    assert_eq!(passing(&souk, "198.51.100.2", 6).await, 3);
    assert!(waited.elapsed() < Duration::from_secs(2), "{:?}", waited.elapsed());

    between.restore();
    shared(&souk, &sharing(&server).await).await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn a_gateway_starts_without_redis_and_finds_it_later() {
    let port = servers::free_port().unwrap();
    let url = format!("redis://127.0.0.1:{port}");
    let settings = [("gateway.redis_url", url.as_str()), ("gateway.redis_timeout", "5s")];
    let (one, other) = (slow(&settings).await, slow(&settings).await);
    assert_eq!(passing(&one, "198.51.100.1", 6).await, 4);
    let server = redis(move || servers::redis_at(port)).await;
    shared(&one, &other).await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// Reads answers until `count` of them have come, or the time is over. How many came.
async fn answers(stream: &mut OwnedReadHalf, count: usize, time: Duration) -> usize {
    let end = tokio::time::Instant::now() + time;
    let (mut text, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    let seen = |text: &[u8]| text.windows(9).filter(|window| window == b"HTTP/1.1 ").count();
    while seen(&text) < count {
        match tokio::time::timeout_at(end, stream.read(&mut piece)).await {
            Ok(Ok(read)) if read > 0 => text.extend_from_slice(&piece[..read]),
            _ => break,
        }
    }
    seen(&text)
}

#[tokio::test]
async fn an_address_that_goes_on_while_it_is_refused_is_read_no_further_for_a_while() {
    const REQUESTS: usize = 3000;
    let budget =
        [("gateway.rate_limits.read.per_address.rate", "1/h"), ("gateway.rate_limits.read.per_address.burst", "1")];
    let souk = boot_with(&budget, |address| address).await;
    let (mut hasty, mut writer) = from(&souk, 2).await.into_split();
    let flood = async {
        let requests = b"GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\n\r\n".repeat(REQUESTS);
        writer.write_all(&requests).await.unwrap();
    };
    let (answered, ()) = tokio::join!(answers(&mut hasty, REQUESTS, Duration::from_secs(3)), flood);
    // 200 at once, 100 more a second, and what was read before a pause began.
    assert!((1..2000).contains(&answered), "{answered} were answered in 3 s");
    // Another address has its budget as ever.
    let mut other = from(&souk, 3).await;
    other.write_all(b"GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut other, _writer) = other.into_split();
    assert_eq!(answers(&mut other, 1, LONG).await, 1);
    assert!(answers(&mut hasty, 1, LONG).await > 0, "it goes on when the pause is over");
}
