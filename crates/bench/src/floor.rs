//! The least that an order costs PostgreSQL: pgbench with the statements of an order, and nothing around them.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use souk_testkit::{find, servers::Server};

use crate::{
    process::Watch,
    report::{Figures, mib},
};

const SCHEMA: &str = include_str!("../floor/schema.sql");
/// An order of two products of 10,000, each as likely as the other.
pub const UNIFORM: &str = include_str!("../floor/order.sql");
/// An order of the one product that everybody wants.
pub const HOT: &str = include_str!("../floor/order-hot.sql");

const DATABASE: &str = "floor";

/// Its own database in the server that souk uses too.
pub struct Floor<'s> {
    server: &'s Server,
}

impl<'s> Floor<'s> {
    /// Makes the database and fills it.
    ///
    /// # Errors
    /// Where that fails.
    pub fn prepare(server: &'s Server) -> Result<Self> {
        query(server, "postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        // VACUUM runs in no transaction: one statement at a time.
        for statement in SCHEMA.split(';').filter(|statement| !statement.trim().is_empty()) {
            query(server, DATABASE, statement)?;
        }
        Ok(Self { server })
    }

    /// One turn of a script.
    ///
    /// # Errors
    /// If a transaction failed, or one that was counted is not there.
    pub fn turn(&self, script: &str, folder: &Path, clients: usize, seconds: u64) -> Result<Figures> {
        let file = folder.join("floor.sql");
        std::fs::write(&file, script)?;
        let pgbench = find::binary("pgbench").context(find::missing("pgbench", "postgresql"))?;
        let stored = || -> Result<f64> { Ok(query(self.server, DATABASE, "SELECT count(*) FROM orders")?.parse()?) };
        let stored_before = stored()?;
        // One file a thread, one line a transaction.
        let times = tempfile::tempdir_in(folder)?;
        let watch = Watch::begin(&[], &[self.server.pid()])?;
        let output = Command::new(pgbench)
            .args(["-n", "-j", "2", "-M", "prepared", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-c", &clients.to_string(), "-T", &seconds.to_string(), "-p", &self.server.port().to_string()])
            .arg("-f")
            .arg(&file)
            .arg("--log")
            .arg(format!("--log-prefix={}", times.path().join("times").display()))
            .arg(DATABASE)
            .output()
            .context("pgbench cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        let number = |label: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(label)).with_context(|| text.to_string())?;
            let digits = line.trim().split([' ', '/']).next().unwrap_or_default();
            digits.parse().with_context(|| line.to_owned())
        };
        let count = number("number of transactions actually processed:")?;
        ensure!(number("number of failed transactions:")? == 0.0, "transactions failed: {text}");
        ensure!(stored()? - stored_before == count, "not every order is stored: {text}");
        let spent = watch.spent()?;
        let latency = latency(times.path())?;
        Ok(Figures {
            rate: number("tps =")?,
            p50_ms: latency.value_at_quantile(0.5) as f64 / 1000.0,
            p99_ms: latency.value_at_quantile(0.99) as f64 / 1000.0,
            cpu_per_1000: spent.others.cpu / count * 1000.0,
            own_cpu_per_1000: f64::NAN,
            load_cpu_per_1000: f64::NAN,
            own_switches: f64::NAN,
            own_resident_mib: mib(spent.others.resident),
        })
    }
}

/// Time to each transaction's end, in microseconds, from pgbench's logs in a folder.
fn latency(folder: &Path) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    for file in std::fs::read_dir(folder)? {
        for line in std::fs::read_to_string(file?.path())?.lines() {
            // client_id transaction_no time script_no …
            let time = line.split(' ').nth(2).and_then(|time| time.parse().ok());
            latency.record(time.with_context(|| format!("not a line of pgbench's log: {line}"))?)?;
        }
    }
    Ok(latency)
}

/// What a statement answers, as text.
///
/// # Errors
/// If it fails.
pub fn query(server: &Server, database: &str, statement: &str) -> Result<String> {
    let psql = find::binary("psql").context(find::missing("psql", "postgresql-client"))?;
    let output = Command::new(psql)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &server.port().to_string(), "-d", database])
        .args(["--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1", "-c", statement])
        .output()
        .context("psql cannot be run")?;
    ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
