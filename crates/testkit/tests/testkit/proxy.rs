//! The proxy that simulates network faults.

use std::time::{Duration, Instant};

use souk_testkit::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);

/// A server that returns what it receives.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address.to_string()
}

async fn ping(client: &mut TcpStream) -> std::io::Result<Duration> {
    let start = Instant::now();
    client.write_all(b"ping").await?;
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(start.elapsed())
}

#[tokio::test]
async fn the_proxy_delays_each_direction() {
    let proxy = Proxy::start(echo().await).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    ping(&mut client).await.unwrap();
    proxy.delay(SHORT);
    assert!(ping(&mut client).await.unwrap() >= 2 * SHORT);
    proxy.restore();
    assert!(ping(&mut client).await.unwrap() < SHORT);
}

#[tokio::test]
async fn a_stall_loses_nothing() {
    let proxy = Proxy::start(echo().await).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    ping(&mut client).await.unwrap();
    proxy.stall();
    client.write_all(b"late").await.unwrap();
    let mut answer = [0; 4];
    let early = tokio::time::timeout(SHORT, client.read_exact(&mut answer)).await;
    assert!(early.is_err(), "a byte passed a stalled proxy");
    proxy.restore();
    tokio::time::timeout(LONG, client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"late");
}

#[tokio::test]
async fn a_cut_closes_all_and_a_restore_lets_new_ones_in() {
    let proxy = Proxy::start(echo().await).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    ping(&mut client).await.unwrap();
    proxy.cut();
    let read = tokio::time::timeout(LONG, client.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    let read = tokio::time::timeout(LONG, refused.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    proxy.restore();
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    tokio::time::timeout(LONG, ping(&mut fresh)).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_proxy_replaces_the_address_in_a_url() {
    let proxy = Proxy::before("postgres://me@127.0.0.1:1/db").await;
    let url = proxy.url("postgres://me@127.0.0.1:1/db?x=y");
    assert_eq!(url, format!("postgres://me@{}/db?x=y", proxy.address()));
}
