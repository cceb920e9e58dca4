//! The start of `souk up` in a new folder on SQLite: time to the first response, and memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use souk_testkit::{process::Program, servers::free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    process::{forget_peak, peak, usage},
    report::{Column, Goal, Report, Row, mib, plain, ranged},
    souk::{Place, Souk},
};

const FRESH: &str = "fresh folder";
const KEPT: &str = "the same folder again";
const LOADED: &str = "under orders";

/// How long a souk may take to the first response.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long souk is idle before its memory is measured.
const IDLE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Start {
    /// Seconds from the start of the process to its first good response over REST.
    seconds: f64,
    /// Resident memory in MiB: after some idle seconds, or the peak under load.
    resident_mib: f64,
    /// CPU seconds until the memory was measured.
    cpu: f64,
}

impl Row for Start {
    const COLUMNS: &'static [Column<Self>] = &[
        ranged("s to an answer", 3, |start| start.seconds),
        ranged("MiB", 1, |start| start.resident_mib),
        plain("CPU s", 2, |start| start.cpu),
    ];
}

/// Runs the case `start`.
pub async fn run(rounds: &Rounds, buyers: usize) -> Result<()> {
    let binary = rounds.souk()?;
    let mut report = Report::<Start>::new();
    for _ in 0..rounds.rounds {
        let folder = tempfile::tempdir()?;
        for name in [FRESH, KEPT] {
            let port = free_port()?;
            // All settings are defaults, except the address and the data folder.
            let program = Program::new(&binary, "grpcurl -plaintext")
                .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
                .arg(folder.path());
            let started = Instant::now();
            let (mut process, seconds) = tokio::join!(program.start(), first_answer(port, started));
            tokio::time::sleep(IDLE).await;
            let used = usage(&[process.pid()])?;
            report.add(name, Start { seconds: seconds?, resident_mib: mib(used.resident), cpu: used.cpu });
            process.terminate(TIMEOUT).await;
        }
        report.add(LOADED, under_load(rounds, buyers, &binary).await?);
        report.show_round();
    }
    let (seconds, resident) = (|s: &Start| s.seconds, |s: &Start| s.resident_mib);
    report.figure("seconds from nothing to the first answer", Goal::AtMost(0.3), (FRESH, seconds));
    report.figure("MiB resident, idle", Goal::AtMost(60.0), (FRESH, resident));
    report.figure("MiB resident, at most, under orders", Goal::AtMost(200.0), (LOADED, resident));
    report.finish(rounds.json.as_deref())
}

/// Waits for the gateway's first good response; returns the seconds since `started`.
async fn first_answer(port: u16, started: Instant) -> Result<f64> {
    loop {
        if let Ok(answer) = ask(port).await
            && answer.starts_with(b"HTTP/1.1 200")
        {
            return Ok(started.elapsed().as_secs_f64());
        }
        ensure!(started.elapsed() < TIMEOUT, "no answer after {TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sends a request on a new connection, which is closed after the response.
async fn ask(port: u16) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /v1/products HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("no answer")?;
    Ok(answer)
}

/// Measures the peak memory while orders are placed as fast as possible.
async fn under_load(rounds: &Rounds, buyers: usize, binary: &std::path::Path) -> Result<Start> {
    let souk = Souk::start(binary, Place::Sqlite, &[]).await?;
    let target = Buyers::of(&souk).await?.rest(Demand::Uniform);
    forget_peak(souk.pid())?;
    souk.orders(&target, buyers, rounds.turn()).await?;
    let (most, used) = (peak(souk.pid())?, usage(&[souk.pid()])?);
    souk.check().await?;
    Ok(Start { seconds: f64::NAN, resident_mib: mib(most), cpu: used.cpu })
}
