//! The least that an order costs PostgreSQL: pgbench with the statements of an order, and nothing around them.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use souk_testkit::servers::{Server, find};

use crate::{process::usage_of_tree, report::Figures};

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
    /// Where a transaction failed, or one that was counted is not there.
    pub fn turn(&self, script: &str, folder: &Path, clients: usize, seconds: u64) -> Result<Figures> {
        let file = folder.join("floor.sql");
        std::fs::write(&file, script)?;
        let pgbench = find::binary("pgbench").context(find::missing("pgbench", "postgresql"))?;
        let stored = || -> Result<f64> { Ok(query(self.server, DATABASE, "SELECT count(*) FROM orders")?.parse()?) };
        let (before, stored_before) = (usage_of_tree(self.server.pid())?, stored()?);
        let output = Command::new(pgbench)
            .args(["-n", "-j", "2", "-M", "prepared", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-c", &clients.to_string(), "-T", &seconds.to_string(), "-p", &self.server.port().to_string()])
            .arg("-f")
            .arg(&file)
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
        let after = usage_of_tree(self.server.pid())?;
        Ok(Figures {
            rate: number("tps =")?,
            // pgbench tells no more than the average.
            p50_ms: f64::NAN,
            p99_ms: f64::NAN,
            cpu_per_1000: (after.cpu - before.cpu) / count * 1000.0,
            own_cpu_per_1000: f64::NAN,
            own_resident_mib: f64::NAN,
        })
    }
}

/// What a statement answers, as text.
///
/// # Errors
/// Where it fails.
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
