//! Servers start, serve and leave nothing behind, however their owner ends.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use souk_testkit::find;
use souk_testkit::servers::{self, Postgres, Server};
use souk_testkit::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_postgres::NoTls;

const DEADLINE: Duration = Duration::from_secs(120);

fn runs(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap()).is_ok()
}

#[tokio::test]
async fn postgres_is_durable_and_has_the_requested_isolation() {
    let asked = Postgres { isolation: Some("serializable".into()), ..Postgres::default() };
    let server = tokio::task::spawn_blocking(move || asked.start()).await.unwrap().unwrap();
    let (client, connection) = tokio_postgres::connect(server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    for (setting, expected) in
        [("default_transaction_isolation", "serializable"), ("fsync", "on"), ("synchronous_commit", "on")]
    {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{setting}");
    }
    let row = client.query_one("SHOW data_directory", &[]).await.unwrap();
    let data = PathBuf::from(row.get::<_, String>(0));
    assert!(data.exists());
    let pid = server.pid();
    assert!(runs(pid));

    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    assert!(!runs(pid), "PostgreSQL still runs");
    assert!(!data.parent().unwrap().exists(), "its folder is still there");
}

/// Runs `with-servers` around a command that prints the server's folder and then waits for its input.
#[tokio::test]
async fn a_killed_owner_leaves_no_server_behind() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_with-servers"))
        .args(["--", "sh", "-c", r#"echo "$SOUK_TEST_DATABASE_URL"; echo "$TMPDIR"; exec cat"#])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let url = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let scratch = PathBuf::from(lines.next_line().await.unwrap().unwrap());
    std::fs::create_dir(scratch.join("left")).unwrap();
    std::fs::write(scratch.join("left/behind"), "by a killed test").unwrap();

    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SHOW data_directory", &[]).await.unwrap();
    let folder = PathBuf::from(row.get::<_, String>(0)).parent().unwrap().to_owned();

    owner.kill().await.unwrap();
    wait::until(DEADLINE, "the folders to be removed", async || !folder.exists() && !scratch.exists()).await;
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
}

#[tokio::test]
async fn the_exit_code_of_the_command_is_passed_on() {
    let status =
        Command::new(env!("CARGO_BIN_EXE_with-servers")).args(["--", "sh", "-c", "exit 42"]).status().await.unwrap();
    assert_eq!(status.code(), Some(42));
}

#[tokio::test]
async fn sigterm_reaches_the_command() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_with-servers"))
        .args(["--", "sh", "-c", "echo ready; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The input stays open: `wait` would close it, and the command would end by itself.
    let _input = owner.stdin.take();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("ready"));
    let pid = Pid::from_raw(owner.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::time::timeout(DEADLINE, owner.wait()).await.unwrap().unwrap();
    // A shell reports a signal as 128 plus its number. If `with-servers` itself were killed, there would be no exit
    // code.
    assert_eq!(status.code(), Some(128 + 15));
}

/// Tests that need Redis and NATS start them; `with-servers` installs them if they are missing.
#[tokio::test]
async fn redis_and_nats_answer_when_installed() {
    for (binary, start, hello, answer) in [
        ("redis-server", servers::redis as fn() -> anyhow::Result<Server>, "PING\r\n", "+PONG"),
        ("nats-server", servers::nats, "", "INFO {"),
    ] {
        if find::binary(binary).is_none() {
            eprintln!("skipped: {binary} is not installed");
            continue;
        }
        let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        socket.write_all(hello.as_bytes()).await.unwrap();
        let mut read = vec![0; answer.len()];
        tokio::time::timeout(DEADLINE, socket.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&read), answer);
        tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    }
}
