//! The edge: slow and silent clients, overload, endless headers, drain, and both protocols on one port.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use souk_testkit::http2;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::boot::{Answer, Booted, boot, boot_with};

pub const LONG: Duration = Duration::from_secs(10);

pub async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// Reads until the server closes.
pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A reset counts as the end, too.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut read)).await.expect("the server closes");
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn both_protocols_share_the_port() {
    let souk = boot().await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = http2.get(format!("{}/test/v1/things/1", souk.url)).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    Answer::read(answer).await.ok();
    let head = http2.head(format!("{}/test/v1/things/1", souk.url)).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    let answer = souk.request("GET", "/test/v1/things/1").send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
}

#[tokio::test]
async fn the_pages_list_the_routes() {
    let souk = boot().await;
    let index = souk.get("/").await.ok();
    let routes = index["rest"].as_array().unwrap();
    assert!(routes.iter().any(|route| route == "GET /test/v1/{name=things/*}"), "{index}");
    assert!(!index.to_string().contains("internal"), "{index}");
    assert_eq!(souk.get("/livez").await.ok()["alive"], true);
    assert_eq!(souk.get("/readyz").await.ok()["ready"], true);
}

#[tokio::test]
async fn silent_and_slow_clients_are_disconnected() {
    let short = ["header", "body", "unread"].map(|what| format!("gateway.{what}_timeout"));
    let short: Vec<_> = short.iter().map(|setting| (setting.as_str(), "300ms")).collect();
    let souk = boot_with(&short, |address| address).await;
    let started = Instant::now();
    // Nothing, half of HTTP/2's preface, and headers without an end.
    for first in ["", "PRI * HT", "GET /livez HTTP/1.1\r\nhost: a\r\nx-a: "] {
        let mut stream = connect(&souk.url).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{first}: {answer}");
    }
    let mut stream = connect(&souk.url).await;
    stream
        .write_all(b"POST /test/v1/everything HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{")
        .await
        .unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive within"), "{answer}");
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn the_time_for_headers_is_limited() {
    let souk = boot().await;
    let request = souk.request("GET", "/test/v1/things/1").header("x-large", "x".repeat(100 * 1024));
    let refused = request.send().await;
    assert!(refused.is_err() || refused.unwrap().status().is_client_error());
    souk.get("/livez").await.ok();
}

/// Starts a request that waits in the echo server. It has arrived there once the gateway, which has room for one
/// request, refuses others.
pub async fn waiting(souk: &Booted) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    let start = || tokio::spawn(souk.request("GET", "/test/v1/fail/wait").send());
    let mut waiting = start();
    souk_testkit::wait::until(LONG, "the only place to be taken", async || {
        if waiting.is_finished() {
            // The request below had the place at that moment. They must not be sent at the same moment again.
            waiting = start();
            return false;
        }
        souk.get("/test/v1/things/1").await.status == StatusCode::SERVICE_UNAVAILABLE && !waiting.is_finished()
    })
    .await;
    waiting
}

#[tokio::test]
async fn overload_is_refused_at_once_but_pages_still_answer() {
    let settings = [("server.max_concurrent_requests", "1"), ("server.deadline", "60s")];
    let souk = boot_with(&settings, |address| address).await;
    let waiting = waiting(&souk).await;
    let refused = souk.get("/test/v1/things/1").await;
    refused.problem(503, "OVERLOADED");
    assert_eq!(refused.header("retry-after"), "1");
    souk.get("/livez").await.ok();
    souk.get("/readyz").await.ok();
    waiting.abort();
    souk_testkit::wait::until(LONG, "the place to be free when its client has left", async || {
        souk.get("/test/v1/things/1").await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn running_requests_finish_before_the_gateway_stops() {
    let settings = [("server.max_concurrent_requests", "1"), ("server.deadline", "2s"), ("server.drain", "20s")];
    let souk = boot_with(&settings, |address| address).await;
    let running = waiting(&souk).await;
    souk.shutdown.cancel();
    let answer = Answer::read(running.await.unwrap().unwrap()).await;
    answer.problem(504, "DEADLINE_EXCEEDED");
    tokio::time::timeout(LONG, souk.served).await.expect("the gateway ends").unwrap();
    assert!(TcpStream::connect(souk.url.trim_start_matches("http://")).await.is_err());
}

#[tokio::test]
async fn requests_are_cut_off_when_the_drain_ends() {
    let settings = [("server.max_concurrent_requests", "1"), ("server.deadline", "60s"), ("server.drain", "300ms")];
    let souk = boot_with(&settings, |address| address).await;
    let running = waiting(&souk).await;
    let started = Instant::now();
    souk.shutdown.cancel();
    tokio::time::timeout(LONG, souk.served).await.expect("the gateway ends").unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(running.await.unwrap().is_err());
}

#[tokio::test]
async fn an_old_connection_is_replaced_and_no_request_fails() {
    let souk = boot_with(&[("server.max_connection_age", "300ms")], |address| address).await;
    let goodbye = http2::goodbye(&souk.url).await;
    // The error code after the last stream id: NO_ERROR.
    assert_eq!(goodbye.payload[4..8], [0; 4]);

    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let started = Instant::now();
    // Three times the maximum age of a connection.
    let follow = format!("{}/test/v1/follow?until=10&pause_millis=100", souk.url);
    let stream = tokio::spawn(http2.get(follow).send().await.unwrap().text());
    while started.elapsed() < Duration::from_millis(1200) {
        let answers = (0..8).map(|_| http2.get(format!("{}/test/v1/things/1", souk.url)).send());
        for answer in futures::future::join_all(answers).await {
            assert_eq!(answer.unwrap().status(), StatusCode::OK);
        }
    }
    let lines = stream.await.unwrap().unwrap();
    assert_eq!(lines.lines().count(), 10, "the stream was not cut: {lines}");
}

#[tokio::test]
async fn an_old_http1_connection_is_closed_with_a_response_and_not_between_two_requests() {
    // Long enough for the first request to arrive before that, even on a busy machine.
    let souk = boot_with(&[("server.max_connection_age", "2s")], |address| address).await;
    let mut stream = connect(&souk.url).await;
    let started = Instant::now();
    let mut read = Vec::new();
    loop {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read.clear();
        while !read.ends_with(b"}\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed without a word");
        }
        let answer = String::from_utf8_lossy(&read);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if answer.contains("connection: close") {
            break;
        }
        assert!(started.elapsed() < LONG, "never told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn a_request_on_an_old_connection_is_cut_off_when_the_grace_ends() {
    let settings = [("server.max_connection_age", "200ms"), ("server.max_connection_age_grace", "200ms")];
    let souk = boot_with(&settings, |address| address).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let follow = format!("{}/test/v1/follow?until=1000000&pause_millis=20", souk.url);
    for client in [http2, reqwest::Client::new()] {
        let stream = client.get(&follow).send().await.unwrap();
        let cut = tokio::time::timeout(LONG, stream.text()).await.expect("the end of the grace");
        assert!(cut.is_err(), "{cut:?}");
        // Not on a kept connection: it could be closed for its age just when the next request is sent.
        souk.send(souk.request("GET", "/test/v1/things/1").header("connection", "close")).await.ok();
    }
}
