//! Rate limits over the wire: by class, caller and address, in memory and shared through a real Redis.

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

/// Budgets that are not refilled while a test runs.
const SLOW: [(&str, &str); 4] = [
    ("gateway.rate_limits.auth.per_address.rate", "1/h"),
    ("gateway.rate_limits.auth.per_address.burst", "4"),
    ("gateway.rate_limits.read.per_caller.rate", "1/h"),
    ("gateway.rate_limits.read.per_caller.burst", "2"),
];

/// A gateway with these budgets that trusts the test as a proxy.
async fn slow(more: &[(&str, &str)]) -> Booted {
    let proxies = [("gateway.trusted_proxies", "127.0.0.0/8")];
    boot_with(&[&SLOW[..], &proxies, more].concat(), |address| address).await
}

/// Logs in from an address, through a proxy.
async fn log_in(souk: &Booted, from: &str) -> Answer {
    souk.send(souk.request("POST", "/test/v1/logIn").header("x-forwarded-for", from)).await
}

/// How many of `times` log-ins are admitted.
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
    // Other addresses and other classes have their own budgets.
    log_in(&souk, "198.51.100.2").await.ok();
    let other = souk.send(souk.request("GET", "/test/v1/kept/a").header("x-forwarded-for", "198.51.100.1")).await;
    other.ok();
    assert!(other.header("ratelimit").starts_with(r#""read-address""#), "{other:?}");
    // The gateway's own pages use no budget.
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
async fn a_caller_has_one_budget_at_all_addresses_and_uses_no_other_budget() {
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

/// Budgets for expensive calls.
const COSTS: [(&str, &str); 2] =
    [("gateway.rate_limits.read.per_address.rate", "1/h"), ("gateway.rate_limits.read.per_address.burst", "40")];

/// Calls cost what the contract says: every call 2, a name 5 more, and each two tags 1 more.
async fn calls_cost_what_they_ask_for(souk: &Booted, from: &str) {
    let get = async |path: &str| souk.send(souk.request("GET", path).header("x-forwarded-for", from)).await;
    let left =
        |answer: &Answer| -> String { answer.header("ratelimit").split(';').nth(1).unwrap_or_default().to_owned() };
    assert_eq!(left(&get("/test/v1/search").await), "r=38");
    assert_eq!(left(&get("/test/v1/search?name=x").await), "r=31");
    assert_eq!(left(&get("/test/v1/search?tags=a").await), "r=29");
    assert_eq!(left(&get("/test/v1/search?tags=a&tags=b&tags=c&tags=d&tags=e").await), "r=25");
    // The same over Connect, in both forms.
    let connect = |content_type: &str, body: Vec<u8>| {
        let request = souk.request("POST", "/souk.test.v1.EchoService/Search").header("x-forwarded-for", from);
        souk.send(request.header("content-type", content_type).body(body))
    };
    assert_eq!(left(&connect("application/json", br#"{"name":"x"}"#.to_vec()).await), "r=18");
    assert_eq!(left(&connect("application/proto", vec![0x0a, 1, b'x']).await), "r=11");
    // Over gRPC, which does not report the remaining budget.
    let mut client = Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(vec![0x0a, 1, b'x']);
    request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
    let path = || "/souk.test.v1.EchoService/Search".parse().unwrap();
    client.unary(request, path(), crate::grpc::Raw).await.unwrap();
    let refused = get("/test/v1/search?name=x").await;
    let problem = refused.problem(429, "RATE_LIMITED");
    assert!(problem["detail"].as_str().unwrap().contains("what this call asks for counts as 5"), "{problem}");
    // The refused call cost its base price but not the surcharge.
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
async fn calls_cost_what_they_ask_for_with_shared_budgets() {
    let server = redis(servers::redis).await;
    let shared_with = [("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")];
    let one = slow(&[&COSTS[..], &shared_with].concat()).await;
    shared(&one, &sharing(&server).await).await;
    calls_cost_what_they_ask_for(&one, "198.51.100.1").await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn requests_with_invalid_tokens_use_the_budget_of_the_address() {
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
async fn the_client_address_of_an_untrusted_proxy_is_ignored() {
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

/// A gateway that shares its budgets. The timeout is long, because a busy machine may be slow.
async fn sharing(server: &Server) -> Booted {
    slow(&[("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")]).await
}

/// Waits until a request at one gateway uses the budget of the other.
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
    // The caller's budget is checked first. A request that it refuses does not use the budget of the address.
    let token = one.keys.token(&[], 600);
    let statuses = [200, 200, 429, 429];
    for expected in statuses {
        assert_eq!(one.get_as("/test/v1/read", &token).await.status, expected);
    }
    // Concurrent requests are counted exactly.
    let all = (0..40).map(|number| log_in(if number % 2 == 0 { &one } else { &other }, "198.51.100.9"));
    let all = futures::future::join_all(all).await;
    assert_eq!(all.iter().filter(|answer| answer.status == StatusCode::OK).count(), 4);
}

/// A Redis server that only accepts TLS, with a certificate of the test authority, and that requires client
/// certificates.
#[tokio::test]
async fn two_gateways_share_their_budgets_through_redis_over_tls() {
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
    // If the server's certificate has another authority, the gateway does not use it and counts by itself.
    let stranger = stranger.certificate();
    let settings =
        settings.map(|(name, value)| if value == ca { (name, stranger.to_str().unwrap()) } else { (name, value) });
    assert_eq!(passing(&slow(&settings).await, "198.51.100.1", 6).await, 4);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn gateways_count_alone_while_redis_is_killed_and_share_again_afterwards() {
    let server = redis(servers::redis).await;
    let port = server.port();
    let (one, other) = (sharing(&server).await, sharing(&server).await);
    shared(&one, &other).await;
    assert_eq!(passing(&one, "198.51.100.1", 4).await, 4);
    assert_eq!(passing(&other, "198.51.100.1", 1).await, 0, "shared before");

    kill_process(Pid::from_raw(server.pid().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    // Each gateway counts by itself now: no request fails, and the limits still apply.
    for souk in [&one, &other] {
        assert_eq!(passing(souk, "198.51.100.2", 6).await, 4);
    }
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();

    let server = redis(move || servers::redis_at(port)).await;
    shared(&one, &other).await;
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn a_silent_redis_delays_only_the_first_request() {
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

/// Reads responses until `count` have arrived or the time is over. Returns how many arrived.
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
async fn an_address_that_ignores_refusals_is_slowed_down() {
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
    // 200 at once, 100 more per second, and those that were read before a pause began.
    assert!((1..2000).contains(&answered), "{answered} were answered in 3 s");
    // Another address has its full budget.
    let mut other = from(&souk, 3).await;
    other.write_all(b"GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut other, _writer) = other.into_split();
    assert_eq!(answers(&mut other, 1, LONG).await, 1);
    assert!(answers(&mut hasty, 1, LONG).await > 0, "it goes on when the pause is over");
}
