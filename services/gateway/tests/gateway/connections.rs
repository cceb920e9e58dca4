//! The number of connections of a client, and what happens to idle ones.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use souk_testkit::wait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    boot::{Booted, boot_with},
    echo,
    edge::LONG,
};

/// A connection from an address of this machine, `127.0.0.<host>`.
pub async fn from(souk: &Booted, host: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    socket.connect(souk.url.trim_start_matches("http://").parse().unwrap()).await.unwrap()
}

/// The same with HTTP/2. It answers pings.
pub async fn http2(souk: &Booted, host: u8, builder: &client::Builder) -> SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(from(souk, host).await).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// Sends a GET. Returns the status of the response.
async fn get(requests: &SendRequest<Bytes>, path: &str) -> Result<u16, h2::Error> {
    let request = http::Request::get(format!("http://souk{path}")).body(()).unwrap();
    let (response, _) = requests.clone().ready().await?.send_request(request, true)?;
    Ok(response.await?.status().as_u16())
}

/// The status of a response on a new connection. `None`: it was closed without a response.
async fn answered(souk: &Booted, host: u8) -> Option<u16> {
    let mut stream = from(souk, host).await;
    let request = b"GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    // A reset counts as the end, too.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer, or the end");
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

/// A connection with a waiting request.
async fn busy(souk: &Booted, host: u8) -> tokio::task::JoinHandle<Result<u16, h2::Error>> {
    let requests = http2(souk, host, &client::Builder::new()).await;
    assert_eq!(get(&requests, "/test/v1/things/1").await.unwrap(), 200);
    let waiting = tokio::spawn(async move { get(&requests, "/test/v1/fail/wait").await });
    // Its frames are on their way. A request on another connection could arrive first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting
}

#[tokio::test]
async fn a_new_client_can_connect_as_long_as_any_connection_is_idle() {
    let limits = [("gateway.max_connections", "40"), ("gateway.max_connections_per_address", "30")];
    let souk = boot_with(&limits, |address| address).await;
    let patient = http2(&souk, 3, &client::Builder::new()).await;
    assert_eq!(get(&patient, "/livez").await.unwrap(), 200);
    let mut idle = Vec::new();
    for _ in 0..100 {
        let requests = http2(&souk, 2, &client::Builder::new()).await;
        assert_eq!(get(&requests, "/livez").await.unwrap(), 200, "the last one is always let in");
        idle.push(requests);
    }
    assert_eq!(answered(&souk, 1).await, Some(200));
    assert_eq!(get(&patient, "/livez").await.unwrap(), 200, "those of others are not closed");
    wait::until(LONG, "the older ones to be closed", async || get(&idle[0], "/livez").await.is_err()).await;
    // The gateway is at its limit: a new connection replaces one of the address with the most.
    let mut more = Vec::new();
    for host in 4..24 {
        more.push(http2(&souk, host, &client::Builder::new()).await);
        assert_eq!(get(&more[more.len() - 1], "/livez").await.unwrap(), 200);
    }
    assert_eq!(get(&patient, "/livez").await.unwrap(), 200);
    for requests in &more {
        assert_eq!(get(requests, "/livez").await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_connection_with_an_incomplete_request_counts_as_idle() {
    let limits = [("gateway.max_connections", "10"), ("gateway.max_connections_per_address", "10")];
    let souk = boot_with(&limits, |address| address).await;
    let mut held = Vec::new();
    for first in ["", "GET /test/v1/things/1 HTTP/1.1\r\nhost: a\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        for _ in 0..20 {
            let mut stream = from(&souk, 2).await;
            stream.write_all(first.as_bytes()).await.unwrap();
            held.push(stream);
        }
    }
    assert_eq!(answered(&souk, 1).await, Some(200));
}

#[tokio::test]
async fn busy_connections_stay_open_and_other_addresses_are_served() {
    let limits = [("gateway.max_connections_per_address", "3"), ("server.deadline", "60s")];
    let souk = boot_with(&limits, |address| address).await;
    let mut busy_ones = Vec::new();
    for _ in 0..3 {
        busy_ones.push(busy(&souk, 2).await);
    }
    assert_eq!(answered(&souk, 2).await, None, "the address has as many as it may, and none is idle");
    assert_eq!(answered(&souk, 3).await, Some(200));
    assert!(busy_ones.iter().all(|one| !one.is_finished()));
    for one in busy_ones {
        one.abort();
    }
    wait::until(LONG, "the places to be free", async || answered(&souk, 2).await == Some(200)).await;
}

#[tokio::test]
async fn the_connections_of_a_trusted_proxy_have_no_limit_of_their_own() {
    let limits = [("gateway.max_connections_per_address", "2"), ("gateway.trusted_proxies", "127.0.0.2")];
    let souk = boot_with(&limits, |address| address).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(busy(&souk, 2).await);
    }
    assert_eq!(answered(&souk, 2).await, Some(200));
    assert!(all.iter().all(|one| !one.is_finished()));
}

#[tokio::test]
async fn a_waiting_connection_is_served_once_another_one_closes() {
    let limits = [("gateway.max_connections", "2"), ("gateway.max_connections_per_address", "2")];
    let souk = boot_with(&limits, |address| address).await;
    let (one, other) = (busy(&souk, 2).await, busy(&souk, 3).await);
    let waiting = answered(&souk, 4);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    one.abort();
    assert_eq!(waiting.await, Some(200));
    assert!(!other.is_finished());
}

#[tokio::test]
async fn idle_connections_are_closed_even_if_they_answer_pings() {
    let souk = boot_with(&[("gateway.idle_timeout", "300ms")], |address| address).await;
    let idle = http2(&souk, 2, &client::Builder::new()).await;
    assert_eq!(get(&idle, "/livez").await.unwrap(), 200);
    let mut silent = from(&souk, 2).await;
    let streaming = http2(&souk, 2, &client::Builder::new()).await;
    let request = http::Request::get("http://souk/test/v1/follow?until=9&pauseMillis=60000&watcher=quiet");
    let request = request.header("accept", "text/event-stream").body(()).unwrap();
    let (response, _) = streaming.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let _opening = body.data().await;
    wait::until(LONG, "the idle connection to be closed", async || idle.clone().ready().await.is_err()).await;
    let _ = tokio::time::timeout(LONG, silent.read_to_end(&mut Vec::new())).await.expect("closed, too");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(echo::open("quiet"), 1, "a stream is a request under way");
    assert_eq!(get(&streaming, "/livez").await.unwrap(), 200);
}
