//! Clients that do not read their responses.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, client};
use serde_json::json;
use souk_testkit::wait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    boot::{Booted, boot_with},
    connections::http2,
    echo,
    edge::LONG,
};

const KIB: usize = 1024;

/// Limits for a few responses of 100 KiB.
const SMALL: [(&str, &str); 4] = [
    ("gateway.write_timeout", "500ms"),
    ("gateway.unsent.max_bytes", "4MiB"),
    ("gateway.unsent.max_bytes_per_address", "1MiB"),
    ("gateway.unsent.max_bytes_per_connection", "1MiB"),
];

/// Asks for a response of at least `bytes` bytes: the server returns what it receives.
async fn ask(requests: &client::SendRequest<Bytes>, bytes: usize) -> Result<http::Response<RecvStream>, h2::Error> {
    let request = http::Request::post("http://souk/test/v1/everything").header("content-type", "application/json");
    let mut requests = requests.clone().ready().await?;
    let (response, mut body) = requests.send_request(request.body(()).unwrap(), false)?;
    body.send_data(json!({"thing": {"title": "x".repeat(bytes)}}).to_string().into(), true)?;
    response.await
}

/// Reads a whole body, at once or with a pause after each part.
async fn read(body: &mut RecvStream, pause: Duration) -> Result<usize, h2::Error> {
    let mut read = 0;
    while let Some(part) = body.data().await {
        let part = part?;
        read += part.len();
        tokio::time::sleep(pause).await;
        body.flow_control().release_capacity(part.len())?;
    }
    Ok(read)
}

/// An HTTP/2 client with a window of `bytes` for each response.
fn window(bytes: usize) -> client::Builder {
    let mut builder = client::Builder::new();
    builder.initial_window_size(bytes.try_into().unwrap()).initial_connection_window_size(1 << 30);
    builder
}

async fn is_served(souk: &Booted, host: u8) -> bool {
    let requests = http2(souk, host, &client::Builder::new()).await;
    match ask(&requests, 100 * KIB).await {
        Ok(mut response) if response.status() == 200 => {
            assert!(read(response.body_mut(), Duration::ZERO).await.unwrap() > 100 * KIB);
            true
        }
        Ok(response) => {
            assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn unread_responses_are_limited_and_aborted() {
    let souk = boot_with(&SMALL, |address| address).await;
    for open in [0, 1] {
        // With a window of 0, nothing is sent. With a window of 1, the response waits in HTTP/2's buffer.
        let (mut held, mut refused) = (Vec::new(), 0);
        let mut lazy = [http2(&souk, 2, &window(open)).await, http2(&souk, 2, &window(open)).await];
        let started = Instant::now();
        for number in 0..40 {
            let requests = &mut lazy[number % 2];
            match ask(requests, 100 * KIB).await {
                Ok(response) if response.status() == 200 => held.push(response),
                Ok(response) => {
                    assert_eq!(response.status(), 503);
                    refused += 1;
                }
                // The gateway closed the connection with all its unread responses.
                Err(_) => *requests = http2(&souk, 2, &window(open)).await,
            }
            assert!(is_served(&souk, 3).await, "another address is never refused");
        }
        // At most as many as fit into the limit in each `write_timeout`.
        let rounds = 1 + started.elapsed().as_millis() / 500;
        assert!(refused > 0 && held.len() as u128 <= 10 * rounds, "{} held, {refused} refused", held.len());
        wait::until(LONG, "the unread to be given up", async || is_served(&souk, 2).await).await;
        drop(held);
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_whole_response() {
    let souk = boot_with(&SMALL, |address| address).await;
    let requests = http2(&souk, 2, &window(16 * KIB)).await;
    let started = Instant::now();
    let mut response = ask(&requests, 200 * KIB).await.unwrap();
    assert!(read(response.body_mut(), Duration::from_millis(150)).await.unwrap() > 200 * KIB);
    assert!(started.elapsed() > Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_connection_of_http1_that_is_not_read_is_closed() {
    let settings = [
        ("gateway.write_timeout", "500ms"),
        ("gateway.unsent.max_bytes_per_connection", "64MiB"),
        ("gateway.unsent.max_bytes_per_address", "64MiB"),
    ];
    let souk = boot_with(&settings, |address| address).await;
    let body = json!({"thing": {"title": "x".repeat(4 * KIB * KIB - 1000)}}).to_string();
    // The operating system's buffers for a client must be smaller than the response.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(souk.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let head = format!(
        "POST /test/v1/everything HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut answer = Vec::new();
    // A reset counts as the end, too.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the gateway closes");
    assert!(
        answer.starts_with(b"HTTP/1.1 200") && answer.len() < body.len(),
        "{}",
        String::from_utf8_lossy(&answer[..answer.len().min(1000)])
    );
    assert!(is_served(&souk, 2).await);
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_and_a_silent_one_does_not() {
    let souk = boot_with(&SMALL, |address| address).await;
    let follow = async |window: &client::Builder, query: &str| {
        let requests = http2(&souk, 2, window).await;
        let request = http::Request::get(format!("http://souk/test/v1/follow?{query}"));
        let request = request.header("accept", "text/event-stream").body(()).unwrap();
        let (response, _) = requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
        (response.await.unwrap().into_body(), requests)
    };
    let (mut silent, _requests) = follow(&window(64 * KIB), "until=5&pauseMillis=3000&watcher=silent").await;
    let unread = [
        follow(&window(0), "until=1000000000&watcher=none").await,
        follow(&window(1000), "until=1000000000&watcher=some").await,
        follow(&window(64 * KIB), "until=1000000000&watcher=much").await,
    ];
    for watcher in ["none", "some", "much"] {
        wait::until(LONG, "the unread stream to end", async || echo::open(watcher) == 0).await;
    }
    assert_eq!(echo::open("silent"), 1);
    let mut text = String::new();
    while !text.contains("\"number\":") {
        text.push_str(&String::from_utf8_lossy(&silent.data().await.expect("an event").unwrap()));
    }
    drop(unread);
}
