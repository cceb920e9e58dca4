//! Real clients and the gateway: those from npm on Node and in Chromium, and the official gRPC libraries, which also
//! call souk's own services. The clients are in `tests/clients`. These tests do not run by default: `.ci/clients`
//! installs what they need and runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
// The other tests use more of the modules that boot a gateway.
#![allow(dead_code)]

#[path = "gateway/boot.rs"]
mod boot;
#[path = "gateway/echo.rs"]
mod echo;

use std::{ffi::OsString, path::Path, process::Stdio, time::Duration};

use souk_testkit::process::{Program, souk_binary};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::Command,
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

const LONGEST: Duration = Duration::from_secs(300);
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Starts an echo server that can be killed: when its runtime is dropped, all its work stops at once.
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
    assert!(
        Path::new(FOLDER).join("node_modules").exists(),
        "the npm packages are missing: run .ci/clients, which installs them and Chromium"
    );
    let (echo, address) = echo_at("127.0.0.1:0");
    let mut echo = Some(echo);
    let gateway = Runtime::new().unwrap();
    gateway.block_on(async {
        // The page has an origin on this machine.
        let settings = [("gateway.cors.allowed_origins", "loopback"), ("server.deadline", "5s")];
        let behind = address.clone();
        let souk = boot::boot_with(&settings, |_| behind).await;
        let descriptors = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(descriptors.path(), &*boot::DESCRIPTORS).unwrap();
        let mut node = Command::new("node")
            .args(["run.js", &souk.url])
            .arg(descriptors.path())
            .arg(souk.keys.token(&[], 600))
            .current_dir(FOLDER)
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
                    // A runtime must not be dropped or block inside another runtime.
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

/// Starts the echo server again at the same address, once the address is free.
async fn restarted(address: String) -> Runtime {
    souk_testkit::wait::until(Duration::from_secs(10), "the address to be free", async || {
        TcpListener::bind(&address).await.is_ok()
    })
    .await;
    tokio::task::spawn_blocking(move || echo_at(&address).0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn official_grpc_clients() {
    let data = tempfile::tempdir().unwrap();
    // Connections are replaced all the time, which no client may notice.
    let echo = boot::boot_with(&[("server.max_connection_age", "1s")], |address| address).await;
    let up = Program::new(souk_binary(), "is ready").args(["up", "--listen", "127.0.0.1:0", "--data-dir"]);
    let up = up.arg(data.path()).env("SOUK_SERVER__MAX_CONNECTION_AGE", "1s").start().await;
    // The last line of the start-up output: everything has been printed then.
    let souk = up.line_with("grpcurl -plaintext", LONGEST).await;
    let souk = souk.split_whitespace().nth(2).unwrap().to_owned();
    let mut services = Vec::new();
    for name in ["  inventory ", "  user ", "  order "] {
        services.push(up.line_with(name, LONGEST).await.split_whitespace().nth(1).unwrap().to_owned());
    }

    let descriptors = |name: &str, bytes: &[u8]| {
        let path = data.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.into_os_string()
    };
    let gateway = echo.url.trim_start_matches("http://");
    let mut arguments = [gateway, &souk, &services[0]].map(OsString::from).to_vec();
    arguments.push(descriptors("echo.binpb", &boot::DESCRIPTORS));
    arguments.push(descriptors("souk.binpb", souk_proto::DESCRIPTORS));
    arguments.extend(services[1..].iter().map(OsString::from));
    let brought = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run .ci/clients"));
    let (python, go) = (brought("SOUK_CLIENT_PYTHON"), brought("SOUK_CLIENT_GO"));
    let clients = [(&*python, Some("grpc/client.py")), ("node", Some("grpc/client.js")), (&*go, None)];
    let talks = clients.map(|(program, script)| {
        let mut command = Command::new(program);
        command.args(script).args(&arguments).current_dir(FOLDER);
        async move { (program, talk(command).await) }
    });
    for (client, passed) in futures::future::join_all(talks).await {
        assert!(passed, "some cases of {client} failed: see above");
    }
}

/// Runs a client to its end. If it reports that it closed a stream, waits until the service noticed.
async fn talk(mut command: Command) -> bool {
    let mut client = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut told = client.stdin.take().unwrap();
    let talk = async {
        while let Some(line) = said.next_line().await.unwrap() {
            println!("{line}");
            if let Some(watcher) = line.strip_prefix("gone ") {
                let gone = async || echo::open(watcher) == 0;
                souk_testkit::wait::until(Duration::from_secs(10), "the cancelled stream to end", gone).await;
                told.write_all(b"gone\n").await.unwrap();
            }
        }
        client.wait().await.unwrap().success()
    };
    tokio::time::timeout(LONGEST, talk).await.expect("the client ends in time")
}
