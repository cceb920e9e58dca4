//! The minimal cost of an order in PostgreSQL: pgbench runs the SQL statements of an order, without any application.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use souk_testkit::{find, servers::Server};

use crate::{
    process::Watch,
    report::{Figures, mib},
};

const SCHEMA: &str = include_str!("../floor/schema.sql");
/// The script of an order of two of 10,000 products, all equally likely.
pub const UNIFORM: &str = include_str!("../floor/order.sql");
/// The script of an order of one product, the same in all orders.
pub const HOT: &str = include_str!("../floor/order-hot.sql");

const DATABASE: &str = "floor";

/// A database for pgbench, on the server that souk also uses.
pub struct Floor<'s> {
    server: &'s Server,
}

impl<'s> Floor<'s> {
    /// Creates the database and fills it.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(server: &'s Server) -> Result<Self> {
        query(server, "postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        // VACUUM cannot run in a transaction, so each statement is sent alone.
        for statement in SCHEMA.split(';').filter(|statement| !statement.trim().is_empty()) {
            query(server, DATABASE, statement)?;
        }
        Ok(Self { server })
    }

    /// Runs a script for one turn.
    ///
    /// # Errors
    /// If a transaction failed, or the database does not have all the orders that were counted.
    pub fn turn(&self, script: &str, folder: &Path, clients: usize, seconds: u64) -> Result<Figures> {
        let file = folder.join("floor.sql");
        std::fs::write(&file, script)?;
        let pgbench = find::binary("pgbench").context(find::missing("pgbench", "postgresql"))?;
        let stored = || -> Result<f64> { Ok(query(self.server, DATABASE, "SELECT count(*) FROM orders")?.parse()?) };
        let stored_before = stored()?;
        // pgbench writes a file for each thread, with a line for each transaction.
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

/// The durations of the transactions, in microseconds, from the pgbench logs in a folder.
fn latency(folder: &Path) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    for file in std::fs::read_dir(folder)? {
        for line in std::fs::read_to_string(file?.path())?.lines() {
            // The format of a line: client_id transaction_no time script_no …
            let time = line.split(' ').nth(2).and_then(|time| time.parse().ok());
            latency.record(time.with_context(|| format!("not a line of pgbench's log: {line}"))?)?;
        }
    }
    Ok(latency)
}

/// Runs a statement and returns its result as text.
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
