//! HTTP/1.1 connections after a response that was sent before the request's body arrived, and checks of a request's
//! head.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    boot::{Booted, boot, boot_with},
    edge::{LONG, connect, read_all},
};

/// Reads one response from a connection that stays open: its head in lower case, and its body.
async fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut read = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest.lines().next().unwrap());
                if body.len() >= length.trim().parse().unwrap() {
                    return (head, body.to_owned());
                }
            }
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed within an answer: {text}");
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("an answer")
}

/// Requests that are refused without their body.
fn refused(souk: &Booted) -> Vec<(u16, String)> {
    let customer = souk.keys.token(&[], 60);
    vec![
        (401, "GET /test/v1/signedIn".into()),
        (403, format!("GET /test/v1/staffOnly#authorization: Bearer {customer}")),
        (404, "POST /nowhere".into()),
        (405, "DELETE /test/v1/everything".into()),
        (405, "POST /livez".into()),
        (406, "POST /test/v1/everything#accept: text/html".into()),
        (415, "POST /souk.test.v1.EchoService/Get#content-type: text/plain".into()),
        (400, "POST /test/v1/everything#idempotency-key: a#idempotency-key: b".into()),
        (204, "OPTIONS /test/v1/everything".into()),
        (200, "GET /livez".into()),
        (429, "POST /test/v1/logIn".into()),
    ]
}

fn head(request: &str, length: &str) -> String {
    let mut lines = request.split('#');
    let first = lines.next().unwrap();
    let rest: String = lines.map(|line| format!("{line}\r\n")).collect();
    format!("{first} HTTP/1.1\r\nhost: a\r\n{length}\r\n{rest}\r\n")
}

#[tokio::test]
async fn a_connection_stays_usable_after_a_request_was_refused_without_its_body() {
    const SIZE: usize = 100_000;
    let limits =
        [("gateway.rate_limits.auth.per_address.rate", "1/h"), ("gateway.rate_limits.auth.per_address.burst", "1")];
    let souk = boot_with(&limits, |address| address).await;
    souk.send(souk.request("POST", "/test/v1/logIn")).await.ok();
    let body = vec![b'x'; SIZE];
    for (status, request) in refused(&souk) {
        for chunked in [false, true] {
            let mut stream = connect(&souk.url).await;
            for round in 0..3 {
                let case = format!("{request}, chunked: {chunked}, round {round}");
                let length =
                    if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {SIZE}") };
                stream.write_all(head(&request, &length).as_bytes()).await.unwrap();
                if chunked {
                    stream.write_all(format!("{SIZE:x}\r\n").as_bytes()).await.unwrap();
                }
                stream.write_all(&body[..10]).await.unwrap();
                // The response comes first, the body afterwards.
                let (told, _) = answer(&mut stream).await;
                assert!(told.starts_with(&format!("http/1.1 {status}")), "{case}: {told}");
                assert!(!told.contains("connection: close"), "{case}: {told}");
                stream.write_all(&body[10..]).await.unwrap();
                if chunked {
                    stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
                }
                stream.write_all(b"GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let (next, _) = answer(&mut stream).await;
                assert!(next.starts_with("http/1.1 200"), "{case}: {next}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_never_comes_blocks_the_connection_only_for_a_limited_time() {
    let souk = boot_with(&[("gateway.unread_timeout", "300ms")], |address| address).await;
    for length in ["content-length: 1000", "transfer-encoding: chunked"] {
        let mut stream = connect(&souk.url).await;
        stream.write_all(head("GET /test/v1/signedIn", length).as_bytes()).await.unwrap();
        let started = Instant::now();
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 401"));
        assert!((Duration::from_millis(300)..LONG).contains(&started.elapsed()), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_ends_the_connection_after_the_response() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let size = 8 * 1024 * 1024;
    let length = format!("content-length: {size}");
    let chunked = "transfer-encoding: chunked".to_owned();
    for (length, announced) in [(&length, true), (&chunked, false)] {
        let mut stream = connect(&souk.url).await;
        stream.write_all(head("GET /test/v1/signedIn", length).as_bytes()).await.unwrap();
        if !announced {
            stream.write_all(format!("{size:x}\r\n").as_bytes()).await.unwrap();
        }
        // As many clients do, the test sends the whole body before it reads the response.
        stream.write_all(&vec![b'x'; size]).await.expect("the gateway reads on");
        let (told, body) = answer(&mut stream).await;
        assert!(told.starts_with("http/1.1 401") && body.contains("TOKEN_MISSING"), "{told} {body}");
        assert_eq!(told.contains("connection: close"), announced, "{told}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "closed, and not reset");
    }
}

#[tokio::test]
async fn the_connection_closes_after_a_refused_expect_100_continue() {
    let souk = boot().await;
    let mut stream = connect(&souk.url).await;
    let request = head("GET /test/v1/signedIn#expect: 100-continue", "content-length: 10");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (told, _) = answer(&mut stream).await;
    assert!(told.starts_with("http/1.1 401") && told.contains("connection: close"), "{told}");
    drop(stream);
}

#[tokio::test]
async fn every_target_has_one_host_and_no_coding_but_chunked() {
    let souk = boot().await;
    let targets = [
        ("POST /test/v1/everything", "application/json"),
        ("GET /livez", "text/plain"),
        ("GET /docs", "text/plain"),
        ("POST /nowhere", "text/plain"),
        ("POST /souk.test.v1.EchoService/Get", "application/json"),
        ("POST /souk.test.v1.EchoService/Get", "application/grpc-web+proto"),
    ];
    let faults = [
        ("", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host: a\r\nhost: b\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: user@a\r\n", 400),
        ("host: a\r\ntransfer-encoding: gzip, chunked\r\n", 501),
        ("host: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", 501),
        ("host: a\r\ntransfer-encoding: chunked, chunked\r\n", 400),
    ];
    for (target, content_type) in targets {
        for (lines, status) in faults {
            let mut stream = connect(&souk.url).await;
            let request =
                format!("{target} HTTP/1.1\r\ncontent-type: {content_type}\r\nconnection: close\r\n{lines}\r\n");
            let ends = if lines.contains("chunked") { "0\r\n\r\n" } else { "" };
            stream.write_all(format!("{request}{ends}").as_bytes()).await.unwrap();
            let answer = read_all(&mut stream).await.to_lowercase();
            if content_type.contains("grpc") {
                let code = if status == 501 { 12 } else { 3 };
                assert!(answer.contains(&format!("grpc-status: {code}")), "{target} {lines:?}: {answer}");
            } else {
                assert!(answer.starts_with(&format!("http/1.1 {status}")), "{target} {lines:?}: {answer}");
                assert!(answer.contains("host") || answer.contains("transfer-encoding"), "{answer}");
                assert!(answer.contains("x-request-id: "), "{answer}");
            }
        }
    }
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let ask = |host: &'static str| http2.get(format!("{}/livez", souk.url)).header("host", host).send();
    assert_eq!(ask("evil.example").await.unwrap().status(), 400);
    let grpc = http2.post(format!("{}/souk.test.v1.EchoService/Get", souk.url)).header("host", "evil.example");
    let grpc = grpc.header("content-type", "application/grpc").header("te", "trailers").body(vec![0; 5]);
    assert_eq!(grpc.send().await.unwrap().headers()["grpc-status"], "3");
}

#[tokio::test]
async fn a_single_valued_header_must_not_have_two_values() {
    let souk = boot().await;
    let twice = |name: &str, second: &str| {
        souk.request("POST", "/test/v1/everything").header(name, "application/json").header(name, second).body("{}")
    };
    for name in ["content-type", "idempotency-key", "last-event-id", "origin"] {
        souk.send(twice(name, "application/json")).await.ok();
        let refused = souk.send(twice(name, "text/plain")).await.problem(400, "MALFORMED_REQUEST");
        assert!(refused["detail"].as_str().unwrap().contains(name), "{refused}");
    }
    // Headers that proxies set may have two values: they are removed and set again.
    let answer = souk.send(twice("x-request-id", "b")).await;
    answer.ok();
    assert_eq!(answer.header("x-request-id").len(), 36);
    let signed = souk.request("POST", "/test/v1/received/a:take").header("x-signature", "a").header("x-signature", "b");
    souk.send(signed.body("1")).await.problem(400, "MALFORMED_REQUEST");
    let marked = souk.json("POST", "/test/v1/everything", "\u{feff}{}").await.problem(400, "MALFORMED_REQUEST");
    assert!(marked["detail"].as_str().unwrap().contains("U+FEFF"), "{marked}");
}
