//! HTTP on the wire: what no well-behaved client sends, and what few clients send.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    boot::{Booted, boot, boot_with},
    edge::{LONG, connect, read_all},
};

/// Sends this text, and reads until the gateway closes.
async fn exchange(souk: &Booted, request: &str) -> String {
    let mut stream = connect(&souk.url).await;
    // The gateway may respond before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    read_all(&mut stream).await
}

/// Checks a problem for a request that hyper itself refused.
fn is_problem(answer: &str, status: u16) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    for header in ["content-type: application/problem+json", "connection: close", "x-request-id: ", "date: "] {
        assert!(head.contains(header), "{header} is not in {answer}");
    }
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &"MALFORMED_REQUEST".into()));
}

/// Reads until this text has arrived.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "closed before {text}");
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("an answer");
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn too_large_headers_are_refused_with_431() {
    let souk = boot().await;
    let many: String = (0..150).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "x".repeat(100 * 1024));
    for headers in [many, large] {
        let answer = exchange(&souk, &format!("GET /livez HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
        is_problem(&answer, 431);
    }
    let far = exchange(&souk, &format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100 * 1024))).await;
    is_problem(&far, 431);
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let request = http2.get(format!("{}/livez", souk.url)).header("x-large", "x".repeat(100 * 1024));
    let refused = request.send().await;
    assert!(refused.is_err() || refused.unwrap().status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    for broken in [
        "GET /livez\r\n\r\n",
        "GET /livez HTTP/3.1\r\n\r\n",
        "GET /li vez HTTP/1.1\r\n\r\n",
        "\0\0\0\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /livez HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
    ] {
        let answer = exchange(&souk, broken).await;
        is_problem(&answer, 400);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let souk = boot().await;
    let two = "GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\nx-request-id: one\r\n\r\n\
               GET http://a/test/v1/things/2 HTTP/1.1\r\nhost: a\r\nx-request-id: two\r\nconnection: close\r\n\r\n";
    let answers = exchange(&souk, two).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.find("x-request-id: one") < answers.find("x-request-id: two"), "{answers}");
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let head = |length: usize| {
        format!(
            "POST /test/v1/everything HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut stream = connect(&souk.url).await;
    stream.write_all(head(2).as_bytes()).await.unwrap();
    let told = read_until(&mut stream, "\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 100 Continue"), "{told}");
    stream.write_all(b"{}").await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let mut stream = connect(&souk.url).await;
    stream.write_all(head(1_000_000).as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn connect_requests_are_refused() {
    let souk = boot().await;
    let answer =
        exchange(&souk, "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

/// An HTTP/2 frame without padding.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

#[tokio::test]
async fn a_flood_of_reset_requests_ends_the_connection() {
    let souk = boot().await;
    let path = b"/test/v1/things/1";
    // HPACK: `:method: GET`, `:scheme: http`, `:path` with this text.
    let headers = [&[0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()], &path[..]].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..4000).step_by(2) {
        bytes.extend(frame(HEADERS, 5, stream, &headers));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut stream = connect(&souk.url).await;
    let _ = stream.write_all(&bytes).await;
    let mut read = Vec::new();
    // A reset counts as the end, too.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut read)).await.expect("the gateway closes");
    let mut rest = &read[..];
    let mut last = None;
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, next)) = after.split_at_checked(length) else { break };
        last = Some((head[3], payload.get(4..8).map(<[u8]>::to_vec)));
        rest = next;
    }
    // ENHANCE_YOUR_CALM.
    assert!(last.is_none() || last == Some((GOAWAY, Some(vec![0, 0, 0, 11]))), "{last:?}");
    tokio::time::timeout(Duration::from_secs(5), souk.get("/test/v1/things/1")).await.expect("others are served").ok();
}
