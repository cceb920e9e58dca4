//! A fresh database for each test, on either engine.
//!
//! `SOUK_TEST_DATABASE_URL` names the PostgreSQL server (`./test` starts one for the whole run). Without it, this
//! process starts a private server for the first test that needs one. The database is removed when its [`TestDatabase`]
//! is dropped. On SQLite it is a file in a temporary folder.

use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio_postgres::NoTls;
use url::Url;
use uuid::Uuid;

use crate::servers::{self, Server};

/// The variable with the URL of the PostgreSQL server. Its user must be allowed to create databases.
pub const URL_VARIABLE: &str = "SOUK_TEST_DATABASE_URL";

/// The variable with the URL of a connection pooler in front of that server. If it is set, tests connect through the
/// pooler. Databases are still created and dropped without it.
pub const POOLER_VARIABLE: &str = "SOUK_TEST_POOLER_URL";

/// The two engines that a service's store runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// A database on a PostgreSQL server.
    Postgres,
    /// A file.
    Sqlite,
}

impl Engine {
    /// Both engines, for tests that loop over them.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        })
    }
}

/// An empty database that belongs to one test. It is removed when this is dropped.
#[derive(Debug)]
pub struct TestDatabase {
    /// Which engine it runs on.
    pub engine: Engine,
    /// The value for `souk_store::db::Config::url`: `postgres://…` or `sqlite:PATH`.
    pub url: String,
    folder: TempDir,
    _dropper: Option<Dropper>,
}

impl TestDatabase {
    /// A database on a server of the test's own. It is removed with the server.
    ///
    /// # Panics
    /// If no temporary folder can be made.
    pub fn on(url: impl Into<String>) -> Self {
        let folder = match tempfile::Builder::new().prefix("souk-").tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("no temporary folder for a test database: {error}"),
        };
        Self { engine: Engine::Postgres, url: url.into(), folder, _dropper: None }
    }

    /// A temporary folder of this test, to be passed to `Db::connect` as the data folder. On SQLite the database file
    /// is in it.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }
}

/// The URL, so that `souk_store::db::Config::at(&database)` works. The kit does not depend on
/// souk's crates itself: their tests depend on it.
impl From<&TestDatabase> for String {
    fn from(database: &TestDatabase) -> Self {
        database.url.clone()
    }
}

/// A new, empty database on `engine`. `service` becomes part of its name, so that people can tell databases apart.
///
/// # Panics
/// If there is no PostgreSQL, or it cannot create the database; the message says how to install PostgreSQL.
pub async fn database(engine: Engine, service: &str) -> TestDatabase {
    let folder = match tempfile::Builder::new().prefix(&format!("souk-{service}-")).tempdir() {
        Ok(folder) => folder,
        Err(error) => panic!("no temporary folder for a test database: {error}"),
    };
    match engine {
        Engine::Sqlite => {
            let url = format!("sqlite:{}", folder.path().join(format!("{service}.db")).display());
            TestDatabase { engine, url, folder, _dropper: None }
        }
        Engine::Postgres => {
            let server = postgres_url().await;
            let name = format!("souk_{service}_{}", Uuid::now_v7().simple());
            // Nobody connects to template0, so databases can be created in parallel.
            let create = format!("CREATE DATABASE {name} TEMPLATE template0");
            if let Err(error) = execute(&server, &create).await {
                // The message does not show the whole URL, which may contain a password.
                let host = server.host_str().unwrap_or("its socket");
                panic!("cannot create a test database on {host} ({URL_VARIABLE}): {error:#}");
            }
            let mut url = pooler_url().unwrap_or_else(|| server.clone());
            url.set_path(&name);
            let dropper = Some(Dropper { server, name });
            TestDatabase { engine, url: url.into(), folder, _dropper: dropper }
        }
    }
}

/// A new database on each engine: first SQLite, then PostgreSQL.
///
/// # Panics
/// As [`database`] does.
pub async fn both(service: &str) -> [TestDatabase; 2] {
    [database(Engine::Sqlite, service).await, database(Engine::Postgres, service).await]
}

/// The URL of the server that test databases are created on. The server is started first if necessary.
///
/// # Panics
/// If there is no server and none can be started.
pub async fn postgres_url() -> Url {
    static PRIVATE: OnceLock<Result<Server, String>> = OnceLock::new();

    let url = match std::env::var(URL_VARIABLE) {
        Ok(url) => url,
        Err(_) => {
            let start = || PRIVATE.get_or_init(|| servers::postgres().map_err(|e| format!("{e:#}")));
            match tokio::task::spawn_blocking(start).await {
                Ok(Ok(server)) => server.url().to_owned(),
                Ok(Err(error)) => panic!("{error}\nOr name a server in {URL_VARIABLE}."),
                Err(error) => panic!("starting PostgreSQL panicked: {error}"),
            }
        }
    };
    match Url::parse(&url) {
        Ok(url) => url,
        Err(error) => panic!("{URL_VARIABLE} is not a URL such as postgres://user@host:5432/postgres: {error}"),
    }
}

fn pooler_url() -> Option<Url> {
    let url = std::env::var(POOLER_VARIABLE).ok()?;
    match Url::parse(&url) {
        Ok(url) => Some(url),
        Err(error) => panic!("{POOLER_VARIABLE} is not a URL such as postgres://user@host:6432/postgres: {error}"),
    }
}

/// Runs one statement on a new connection, outside any transaction.
async fn execute(server: &Url, statement: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(server.as_str(), NoTls).await?;
    let connection = tokio::spawn(connection);
    let result = client.batch_execute(statement).await;
    drop(client);
    connection.await??;
    Ok(result?)
}

/// Drops a database when this is dropped, and closes all connections to the database.
#[derive(Debug)]
struct Dropper {
    server: Url,
    name: String,
}

impl Drop for Dropper {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // This needs its own thread and runtime: it may run inside a test's runtime, which must not block on itself. A
        // failure leaves a database behind, but must not fail a test that passed.
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .is_ok_and(|runtime| runtime.block_on(execute(&server, &statement)).is_ok())
        });
        let _ = dropped.join();
    }
}
