//! A souk with its own databases for one contestant. It is filled over its API, and its promises are checked.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use souk_testkit::{
    process::{Process, Program},
    servers::Server,
};
use tempfile::TempDir;

use crate::{
    floor,
    load::{self, Target},
    process::Watch,
    report::Figures,
    shop::{Shop, text},
    sqlite,
};

const SERVICES: [&str; 3] = ["user", "inventory", "order"];
const WARM: Duration = Duration::from_secs(1);
/// How long orders may take to become final, and how long a check of all promises may take.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Settings for benchmarks: no rate limits, no logs, and tokens that stay valid during a long run.
const BARE: [(&str, &str); 3] = [
    ("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false"),
    ("SOUK_GATEWAY__ACCESS_LOG", "false"),
    ("SOUK_USER__ACCESS_TOKEN_TTL", "24h"),
];
/// Disables the gateway's cache.
pub const NO_CACHE: (&str, &str) = ("SOUK_GATEWAY__CACHE__ENABLED", "false");

/// Where a souk keeps its data.
#[derive(Clone, Copy)]
pub enum Place<'s> {
    /// SQLite files in the data folder.
    Sqlite,
    /// Databases on this PostgreSQL server, with this prefix of their names.
    Postgres(&'s Server, &'s str),
}

impl Place<'_> {
    /// The name of a service's database.
    pub fn database(prefix: &str, service: &str) -> String {
        format!("{prefix}_{service}")
    }

    fn create(self) -> Result<()> {
        let Self::Postgres(server, prefix) = self else { return Ok(()) };
        for service in SERVICES {
            let database = Self::database(prefix, service);
            floor::query(server, "postgres", &format!("CREATE DATABASE {database}"))?;
        }
        Ok(())
    }

    /// Adds the options for this place and data folder to the program.
    fn of(self, program: Program, folder: &Path) -> Program {
        let program = program.arg("--data-dir").arg(folder).env("SOUK_TELEMETRY__METRICS_LISTEN", "");
        let Self::Postgres(server, prefix) = self else { return program };
        SERVICES.into_iter().fold(program, |program, service| {
            let url = format!("postgres://postgres@127.0.0.1:{}/{}", server.port(), Self::database(prefix, service));
            program.env(format!("SOUK_{}__DATABASE__URL", service.to_uppercase()), url)
        })
    }
}

/// A running `souk up`.
pub struct Souk<'s> {
    binary: PathBuf,
    place: Place<'s>,
    process: Process,
    folder: TempDir,
    settings: Vec<(String, String)>,
    /// The API of this souk, called as the administrator.
    pub shop: Shop,
    /// Orders whose response said that they were confirmed.
    answered: AtomicU64,
}

impl<'s> Souk<'s> {
    /// Starts a souk on a new folder and new databases, with additional settings.
    ///
    /// # Errors
    /// If the administrator cannot log in.
    pub async fn start(binary: &Path, place: Place<'s>, settings: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        place.create()?;
        let program = Program::new(binary, "grpcurl -plaintext").args(["up", "--listen", "127.0.0.1:0"]);
        let program = BARE.iter().chain(settings).fold(program, |program, (name, value)| program.env(name, value));
        let process = place.of(program, folder.path()).start().await;
        let shop = Shop::open(folder.path()).await?;
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(Self { binary: binary.to_owned(), place, process, folder, settings, shop, answered: AtomicU64::new(0) })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `host:port` of the gateway.
    pub fn gateway(&self) -> String {
        self.shop.gateway.trim_start_matches("http://").to_owned()
    }

    /// `host:port` of a service, from the text that `souk up` prints after the start.
    ///
    /// # Errors
    /// If the text does not contain it.
    pub fn service(&self, name: &str) -> Result<String> {
        let log = self.process.log();
        let words = log.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let address = words.into_iter().find_map(|words| match words.as_slice() {
            [service, address, "(gRPC)"] if *service == name => Some((*address).to_owned()),
            _ => None,
        });
        address.with_context(|| format!("no address of {name} in {log}"))
    }

    /// Makes products with stock; returns their resource names. Afterwards the statistics of the database are up to
    /// date.
    ///
    /// # Errors
    /// If a product cannot be made.
    pub async fn fill(&self, products: usize) -> Result<Vec<String>> {
        let names = self.shop.fill(products).await?;
        self.vacuum()?;
        Ok(names)
    }

    /// Updates PostgreSQL's statistics, which autovacuum would otherwise do after a minute.
    ///
    /// # Errors
    /// If that fails.
    pub fn vacuum(&self) -> Result<()> {
        let Place::Postgres(server, prefix) = self.place else { return Ok(()) };
        for service in SERVICES {
            floor::query(server, &Place::database(prefix, service), "VACUUM ANALYZE")?;
        }
        Ok(())
    }

    /// Registers a user; returns their access token.
    ///
    /// # Errors
    /// If the user cannot register or log in.
    pub async fn register(&self, email: &str, password: &str) -> Result<String> {
        let user = json!({"email": email, "password": password});
        self.shop.post("/v1/users:register", &user).await?;
        Ok(text(&self.shop.post("/v1/sessions:logIn", &user).await?["accessToken"]))
    }

    /// Begins to measure the resource usage of this souk and its database.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn watch(&self) -> Result<Watch> {
        match self.place {
            Place::Sqlite => Watch::begin(&[self.pid()], &[]),
            Place::Postgres(server, _) => Watch::begin(&[self.pid()], &[server.pid()]),
        }
    }

    /// Runs a turn of closed-loop load, after a warm-up.
    ///
    /// # Errors
    /// An answer that is not good.
    pub async fn turn(&self, target: &Target, connections: usize, duration: Duration) -> Result<Figures> {
        Ok(self.counted_turn(target, connections, duration).await?.0)
    }

    /// Runs a turn in which orders are placed. [`Souk::check`] verifies that all acknowledged orders are stored.
    ///
    /// # Errors
    /// An answer that is not good.
    pub async fn orders(&self, target: &Target, buyers: usize, duration: Duration) -> Result<Figures> {
        let (figures, count) = self.counted_turn(target, buyers, duration).await?;
        self.answered(count);
        Ok(figures)
    }

    /// Runs a turn; returns the figures, and the number of responses including those of the warm-up.
    ///
    /// # Errors
    /// An answer that is not good.
    pub async fn counted_turn(
        &self,
        target: &Target,
        connections: usize,
        duration: Duration,
    ) -> Result<(Figures, u64)> {
        let warm = load::run(target, connections, WARM).await?;
        // Otherwise PostgreSQL would use query plans for empty tables.
        self.vacuum()?;
        let watch = self.watch()?;
        let turn = load::run(target, connections, duration).await?;
        Ok((Figures::of(&turn, &watch.spent()?), warm.count + turn.count))
    }

    /// Adds to the count of orders whose response said that they were confirmed.
    pub fn answered(&self, orders: u64) {
        self.answered.fetch_add(orders, Relaxed);
    }

    /// The number that a statement returns from a service's database; `None` on SQLite.
    ///
    /// # Errors
    /// If the statement fails.
    pub fn number(&self, service: &str, statement: &str) -> Result<Option<u64>> {
        let Place::Postgres(server, prefix) = self.place else { return Ok(None) };
        let answer = floor::query(server, &Place::database(prefix, service), statement)?;
        Ok(Some(answer.parse().with_context(|| format!("{statement}: {answer}"))?))
    }

    /// Checks the promises, and that the confirmed orders in the database are as many as the acknowledged ones.
    ///
    /// # Errors
    /// If a promise is broken or the numbers differ.
    pub async fn check(&self) -> Result<()> {
        let waiting = Instant::now();
        while self.number("order", "SELECT count(*) FROM orders WHERE due_at IS NOT NULL")?.is_some_and(|due| due > 0) {
            ensure!(waiting.elapsed() < TIMEOUT, "orders do not become final");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.verify().await?;
        let answered = self.answered.load(Relaxed);
        if let Some(stored) = self.number("order", "SELECT count(*) FROM orders WHERE state = 'CONFIRMED'")? {
            ensure!(stored == answered, "{answered} orders answered, {stored} stored");
        }
        Ok(())
    }

    /// Checks the promises with `souk verify`, and returns what it printed.
    ///
    /// # Errors
    /// If a promise is broken.
    pub async fn verify(&self) -> Result<String> {
        let verify = self.place.of(Program::new(&self.binary, "never ready").arg("verify"), self.folder.path());
        let verify = self.settings.iter().fold(verify, |verify, (name, value)| verify.env(name, value));
        let (status, log) = verify.deadline(TIMEOUT).run().await;
        ensure!(status.success(), "a promise is broken: {log}");
        Ok(log)
    }

    /// All lines that souk has printed so far.
    #[cfg(test)]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs statements in a service's database.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn run(&self, service: &str, statements: &str) -> Result<()> {
        match self.place {
            Place::Sqlite => sqlite::run(&self.folder.path().join(format!("{service}.db")), statements),
            Place::Postgres(server, prefix) => {
                floor::query(server, &Place::database(prefix, service), statements).map(drop)
            }
        }
    }

    /// The column `text` of a query of a service's database.
    ///
    /// # Errors
    /// If the query fails.
    pub fn texts(&self, service: &str, query: &str) -> Result<Vec<String>> {
        match self.place {
            Place::Sqlite => sqlite::texts(&self.folder.path().join(format!("{service}.db")), query),
            Place::Postgres(server, prefix) => {
                let rows = floor::query(server, &Place::database(prefix, service), query)?;
                Ok(rows.lines().map(str::to_owned).collect())
            }
        }
    }
}
