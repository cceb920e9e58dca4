//! The address of a service's database, and its timeouts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use souk_common::{
    config::{Checks, ConfigError},
    tls::ClientSettings,
};

use super::{DbError, Engine, postgres};

/// Settings of a service's database. Every setting has a default that suits one machine.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address: empty (a SQLite file in the data directory, named after the service), `sqlite:PATH`, or
    /// `postgres://user:password@host:5432/name`, optionally with libpq's parameters `sslmode`, `sslrootcert`,
    /// `sslcert`, `sslkey` and others, and with `pooler`. Several hosts, `host:5432,other:5432`, serve one database:
    /// the host that accepts writes is used.
    pub url: String,
    /// Maximum number of connections. 0 chooses a default: on PostgreSQL two for each core and two more. On SQLite this
    /// is the number of readers beside the one writer, by default one for each core, from 2 to 4.
    pub max_connections: usize,
    /// The time that a request waits for a free connection before it fails as unavailable.
    #[serde(with = "souk_common::config::duration")]
    pub acquire_timeout: Duration,
    /// The time for which [`Db::connect`](super::Db::connect) retries while the server is not up yet.
    #[serde(with = "souk_common::config::duration")]
    pub startup_timeout: Duration,
    /// PostgreSQL: maximum age of a connection, after which it is replaced. The limit is up to a quarter shorter for
    /// some connections, so that not all are replaced at once. 0 means no limit.
    #[serde(with = "souk_common::config::duration")]
    pub max_connection_age: Duration,
    /// PostgreSQL: maximum idle time of a connection, after which it is closed. 0 means no limit.
    #[serde(with = "souk_common::config::duration")]
    pub max_idle_time: Duration,
    /// PostgreSQL: time after which a running statement is cancelled. 0 means no limit.
    #[serde(with = "souk_common::config::duration")]
    pub statement_timeout: Duration,
    /// PostgreSQL: time after which the server ends an idle transaction. 0 means no limit.
    #[serde(with = "souk_common::config::duration")]
    pub idle_in_transaction_timeout: Duration,
    /// PostgreSQL: time after which a statement that waits for a lock fails. 0 means no limit.
    #[serde(with = "souk_common::config::duration")]
    pub lock_timeout: Duration,
    /// PostgreSQL: the kind of pooler before the server.
    pub pooler: Pooler,
    /// PostgreSQL: the authorities that may sign the server's certificate, and the client's own certificate.
    pub tls: ClientSettings,
}

/// The kind of pooler between souk and PostgreSQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooler {
    /// None, or a pooler that assigns a server connection to each client connection for its whole life.
    #[default]
    None,
    /// A pooler that may give each transaction another connection, such as PgBouncer in transaction mode.
    Transaction,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            max_connections: 0,
            acquire_timeout: Duration::from_secs(5),
            startup_timeout: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(30 * 60),
            max_idle_time: Duration::from_secs(10 * 60),
            statement_timeout: Duration::from_secs(30),
            idle_in_transaction_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            pooler: Pooler::None,
            tls: ClientSettings::default(),
        }
    }
}

/// Omits the URL's password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &souk_common::config::redact("url", &self.url))
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("startup_timeout", &self.startup_timeout)
            .field("max_connection_age", &self.max_connection_age)
            .field("max_idle_time", &self.max_idle_time)
            .field("statement_timeout", &self.statement_timeout)
            .field("idle_in_transaction_timeout", &self.idle_in_transaction_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("pooler", &self.pooler)
            .field("tls", &self.tls)
            .finish()
    }
}

/// The database that a URL points to.
pub(super) enum Target {
    Postgres(Box<postgres::Server>),
    Sqlite(PathBuf),
}

impl Config {
    /// Default settings with another URL, for tests and tools.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Checks the URL, and the certificates that the URL or the settings name, without access to the database. Used
    /// before anything starts.
    ///
    /// # Errors
    /// [`DbError::Config`] with the forms that a URL may have.
    pub fn engine(&self) -> Result<Engine, DbError> {
        match self.target(Path::new(""), "service")? {
            Target::Postgres(_) => Ok(Engine::Postgres),
            Target::Sqlite(_) => Ok(Engine::Sqlite),
        }
    }

    /// Checks the settings of `database` in a service's section.
    ///
    /// # Errors
    /// If a setting is wrong: names it, and says what would be right.
    pub fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        self.engine().map(drop).map_err(|error| checks.fault("database.url", error.to_string()))
    }

    pub(super) fn target(&self, data_dir: &Path, service: &str) -> Result<Target, DbError> {
        if self.url.is_empty() {
            return Ok(Target::Sqlite(data_dir.join(format!("{service}.db"))));
        }
        if let Some(path) = self.url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path == ":memory:" {
                return Err(DbError::Config(
                    "a SQLite database is a file that several connections share: `sqlite:PATH`".into(),
                ));
            }
            return Ok(Target::Sqlite(path.into()));
        }
        if self.url.starts_with("postgres://") || self.url.starts_with("postgresql://") {
            return Ok(Target::Postgres(Box::new(postgres::Server::read(self)?)));
        }
        Err(DbError::Config("must be empty, `sqlite:PATH` or `postgres://user:password@host:5432/name`".into()))
    }

    pub(super) fn postgres_connections(&self) -> usize {
        match self.max_connections {
            0 => 2 * cores() + 2,
            set => set,
        }
    }

    pub(super) fn sqlite_readers(&self) -> usize {
        match self.max_connections {
            0 => cores().clamp(2, 4),
            set => set,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Formats an error with its causes, in one line.
pub(super) struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_chooses_the_engine() {
        assert_eq!(Config::default().engine().unwrap(), Engine::Sqlite);
        assert_eq!(Config::at("sqlite:/tmp/x.db").engine().unwrap(), Engine::Sqlite);
        assert_eq!(Config::at("postgres://localhost/x").engine().unwrap(), Engine::Postgres);
        for bad in ["mysql://x", "x.db", "sqlite:", "sqlite::memory:", "postgres://host:port:x/"] {
            let error = Config::at(bad).engine().unwrap_err();
            assert!(matches!(error, DbError::Config(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn an_empty_url_is_a_file_named_after_the_service() {
        let Target::Sqlite(path) = Config::default().target(Path::new("/data"), "order").unwrap() else {
            panic!("not SQLite");
        };
        assert_eq!(path, Path::new("/data/order.db"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://ann:s3cret@host/db",
            "postgres://ann:s3c@ret@host/db",
            "postgres://host/db?user=ann&password=s3cret",
            "postgres://ann:s3cret@host/db?password=s3cret",
        ] {
            let shown = format!("{:?}", Config::at(url));
            assert!(!shown.contains("s3c") && !shown.contains("ret"), "{shown}");
            assert!(shown.contains("host"), "{shown}");
        }
    }
}
