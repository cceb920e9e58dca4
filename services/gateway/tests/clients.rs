//! Real clients from npm before the gateway, on Node and in Chromium: `tests/clients`. Not among the tests that run
//! without being asked: `.ci/clients` brings what they need, and runs this.
#![allow(clippy::unwrap_used, clippy::expect_used)]
// The other tests use more of what boots a gateway.
#![allow(dead_code)]

#[path = "gateway/boot.rs"]
mod boot;
#[path = "gateway/echo.rs"]
mod echo;

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::Command,
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

const LONGEST: Duration = Duration::from_secs(300);

/// An echo server that can be killed: with its runtime, everything it does is gone at once.
fn echo_at(address: &str) -> (Runtime, String) {
    let runtime = Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        echo::serve_on(listener, None, boot::contract(), CancellationToken::new()).0
    });
    (runtime, address)
}

#[test]
fn clients_from_npm_on_node_and_in_chromium() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    assert!(
        Path::new(folder).join("node_modules").exists(),
        "the npm packages are missing: run .ci/clients, which installs them and Chromium"
    );
    let (echo, address) = echo_at("127.0.0.1:0");
    let mut echo = Some(echo);
    let gateway = Runtime::new().unwrap();
    gateway.block_on(async {
        // The page is of this machine.
        let settings = [("gateway.cors.allowed_origins", "loopback"), ("server.deadline", "5s")];
        let behind = address.clone();
        let souk = boot::boot_with(&settings, |_| behind).await;
        let descriptors = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(descriptors.path(), &*boot::DESCRIPTORS).unwrap();
        let mut node = Command::new("node")
            .args(["run.js", &souk.url])
            .arg(descriptors.path())
            .arg(souk.keys.token(&[], 600))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node (18 or newer) starts: install it, as .ci/clients does");
        let mut said = BufReader::new(node.stdout.take().unwrap()).lines();
        let mut told = node.stdin.take().unwrap();
        let talk = async {
            while let Some(line) = said.next_line().await.unwrap() {
                println!("{line}");
                if line == "restart" {
                    // A runtime may neither be dropped nor wait inside of another.
                    echo.take().unwrap().shutdown_background();
                    echo = Some(restarted(address.trim_start_matches("http://").to_owned()).await);
                    told.write_all(b"done\n").await.unwrap();
                }
            }
            node.wait().await.unwrap()
        };
        let status = tokio::time::timeout(LONGEST, talk).await.expect("the clients end in time");
        assert!(status.success(), "some clients failed: see above");
    });
}

/// The echo server again, at the same address, as soon as the old one has let go of it.
async fn restarted(address: String) -> Runtime {
    souk_testkit::wait::until(Duration::from_secs(10), "the address to be free", async || {
        TcpListener::bind(&address).await.is_ok()
    })
    .await;
    tokio::task::spawn_blocking(move || echo_at(&address).0).await.unwrap()
}
