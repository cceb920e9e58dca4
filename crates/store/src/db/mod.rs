//! A service's database: one set of queries on two engines, PostgreSQL and SQLite.
//!
//! # Query modules
//! A query file is written once and compiled under both engines. In `src/store.rs` of a service:
//!
//! ```ignore
//! pub mod postgres {
//!     pub type Conn = souk_store::db::postgres::Conn;
//!     #[path = "schema.rs"] pub mod schema;              // uuid, timestamptz, jsonb
//!     #[path = "../queries.rs"] pub mod queries;         // uses super::{Conn, schema}
//! }
//! pub mod sqlite {
//!     pub type Conn = souk_store::db::sqlite::Conn;
//!     #[path = "schema.rs"] pub mod schema;              // blob, TimestamptzSqlite, text
//!     #[path = "../queries.rs"] pub mod queries;
//! }
//!
//! pub async fn order(db: &Db, id: OrderId) -> Result<Option<Order>, StoreError> {
//!     db::read!(db, |conn, q| Ok(q::order(conn, id).await?))
//! }
//!
//! pub async fn confirm(db: &Db, id: OrderId) -> Result<Order, StoreError> {
//!     db::write!(db, |conn, q| {
//!         let order = q::order(conn, id).await?.ok_or(StoreError::NotFound)?;
//!         let order = order.confirm()?;                  // an error rolls back
//!         q::update(conn, &order).await?;
//!         q::add_event(conn, &order).await?;
//!         Ok(order)
//!     })
//! }
//! ```
//!
//! # The macros
//! `read!`, `snapshot!`, `write!` and `single!` take the database and a body that looks like a closure: `|conn, q|
//! body`. In it `conn` is a `&mut Conn` of the engine in use, and `q` is `postgres::queries` or `sqlite::queries`:
//! modules of these names must be in scope at the macro. The body may `.await`, use `?` and `return`, and is
//! of type `Result<T, E>` with `E:` [`Failure`]; that is the macro's type too. If the compiler cannot infer it,
//! write it: `|conn, q| -> Result<Order, StoreError> { … }`.
//!
//! | | transaction | runs on |
//! |---|---|---|
//! | `read!` | none: each statement alone | any connection / a reader |
//! | `snapshot!` | read-only, all statements see one snapshot | any connection / a reader |
//! | `write!` | all or nothing: `Ok` commits, `Err` rolls back | any connection / the one writer (`BEGIN IMMEDIATE`) |
//! | `single!` | on PostgreSQL the one statement of the body; on SQLite as `write!` | as `write!` |
//!
//! **A body may run again.** On PostgreSQL a run that collides with another one (SQLSTATE `40001`, `40P01`, in a
//! statement or at `COMMIT`) is rolled back and retried after a random pause, up to [`Attempts::MAX`] tries. A run
//! whose connection is lost before `COMMIT` is retried on another connection, [`Attempts::MAX_LOST`] times. So is a run
//! that finds its server read-only (`25006`, after a failover) or its prepared statements outdated (`0A000`, after a
//! migration); earlier connections are not used again. After the last try it fails with [`DbError::Conflict`] or
//! [`DbError::Unavailable`]. So a body must change nothing but the database, must not call other services, and must
//! clone the values that it passes on. A `COMMIT` whose answer is lost is not retried, nor is a `single!` statement: it
//! may have taken effect, and only the caller knows how to find out.
//!
//! **A failed statement ends its transaction**: PostgreSQL accepts no other, so return the error with `?`. A body that
//! ignores it and returns `Ok` fails at its end. If a failure is expected, write `ON CONFLICT DO NOTHING`, or put
//! the statement into `conn.transaction(async |conn| …)`, which is a savepoint here.
//!
//! If a caller gives up in the middle, the connection is closed and its transaction is rolled back. On SQLite a body
//! runs to its end, on the thread of its caller, while the runtime moves its other tasks to another thread. This needs
//! tokio's multi-threaded runtime (tests: `#[tokio::test(flavor = "multi_thread")]`).
//!
//! # Batches
//! A batch insert compiles on PostgreSQL, but not on SQLite through the async wrapper. Give both engines' modules a
//! function with the same name and call it from `queries.rs` as `super::insert_lines`:
//!
//! ```ignore
//! // store/postgres.rs
//! pub async fn insert_lines(conn: &mut Conn, rows: Vec<queries::Line>) -> QueryResult<usize> {
//!     diesel::insert_into(schema::lines::table).values(rows).execute(conn).await
//! }
//! // store/sqlite.rs
//! pub async fn insert_lines(conn: &mut Conn, rows: Vec<queries::Line>) -> QueryResult<usize> {
//!     conn.spawn_blocking(move |conn| {
//!         diesel::RunQueryDsl::execute(diesel::insert_into(schema::lines::table).values(rows), conn)
//!     })
//!     .await
//! }
//! ```
//!
//! The insert is part of the `write!` around it.

mod condition;
mod config;
mod error;
mod hosts;
mod macros;
mod migrate;
pub mod postgres;
mod problem;
mod ready;
mod session;
pub mod sqlite;
mod statement;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use diesel_async::RunQueryDsl;
pub use diesel_migrations::EmbeddedMigrations;
use souk_common::telemetry::metrics::{self, PoolMetrics};

pub use self::config::{Config, Pooler};
pub use self::error::{DbError, Failure, Trouble};
pub use self::session::{Attempts, Mode, Session, Transaction};
pub use self::statement::{Keep, Kept, Varied, Within};
pub use crate::{
    __db_beyond as beyond, __db_read as read, __db_single as single, __db_snapshot as snapshot, __db_write as write,
};

use self::config::Target;

/// The database engine of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// PostgreSQL, or another server with its protocol.
    Postgres,
    /// A SQLite file.
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        })
    }
}

/// A service's migrations, one set for each engine:
///
/// ```ignore
/// const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
/// const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
/// Migrations { postgres: POSTGRES, sqlite: SQLITE }
/// ```
pub struct Migrations {
    /// The migrations for PostgreSQL.
    pub postgres: EmbeddedMigrations,
    /// The migrations for SQLite.
    pub sqlite: EmbeddedMigrations,
}

/// The connections of the engine in use, for code that is specific to an engine.
pub enum Pools {
    /// Connections to PostgreSQL.
    Postgres(postgres::Postgres),
    /// Connections to a SQLite file.
    Sqlite(sqlite::Sqlite),
}

/// The use of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// The pool's name: `postgres`, or `writer` and `readers` of SQLite.
    pub pool: &'static str,
    /// Maximum number of connections.
    pub max: usize,
    /// Number of open connections.
    pub size: usize,
    /// Number of open connections that are not in use.
    pub idle: usize,
    /// Number of requests that wait for a connection.
    pub waiting: usize,
}

/// A service's database. A clone is another handle to the same connections.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    pools: Pools,
    migrations: Arc<Migrations>,
    /// The last answer of [`Db::is_ready`].
    was_ready: Mutex<Option<bool>>,
    _metrics: Vec<PoolMetrics>,
}

impl Db {
    /// Opens the database: connects to PostgreSQL, and waits for a server that is not up yet, or opens the SQLite file,
    /// and creates it if it does not exist. Runs no migration.
    ///
    /// If the settings have no URL, the file is `<data_dir>/<service>.db`.
    ///
    /// # Errors
    /// [`DbError::Config`] if the settings are wrong, the server refuses the client or the file cannot be opened;
    /// [`DbError::Unavailable`] if the server did not come up in time.
    pub async fn connect(
        config: &Config,
        data_dir: &Path,
        service: &str,
        migrations: Migrations,
    ) -> Result<Self, DbError> {
        let pools = match config.target(data_dir, service)? {
            Target::Postgres(settings) => Pools::Postgres(postgres::Postgres::connect(*settings, config).await?),
            Target::Sqlite(path) => Pools::Sqlite(sqlite::Sqlite::connect(path, config).await?),
        };
        let metrics = match &pools {
            Pools::Postgres(db) => {
                let db = db.clone();
                vec![watch(format!("{service}.postgres"), move || db.status())]
            }
            Pools::Sqlite(db) => {
                let side = |index: usize, name: &str| {
                    let db = db.clone();
                    watch(format!("{service}.{name}"), move || db.status()[index])
                };
                vec![side(0, "writer"), side(1, "readers")]
            }
        };
        let (migrations, was_ready) = (Arc::new(migrations), Mutex::default());
        Ok(Self(Arc::new(Inner { pools, migrations, was_ready, _metrics: metrics })))
    }

    /// Runs the pending migrations, the service's and then this crate's own (`crates/store/migrations`), and returns
    /// their names. Several replicas of a service may call it at once.
    ///
    /// # Errors
    /// [`DbError::NotOurs`] if the database has other migrations, but not the first of these. [`DbError::Migration`] if
    /// a migration fails; it then had no effect. [`DbError::Unavailable`] for example if the disk is full.
    pub async fn migrate(&self) -> Result<Vec<String>, DbError> {
        let migrations = self.0.migrations.clone();
        match self.pools() {
            Pools::Postgres(db) => migrate::postgres(db, migrations).await,
            Pools::Sqlite(db) => migrate::sqlite(db, migrations).await.map_err(|error| db.explain(error)),
        }
    }

    /// Runs a trivial query.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if the database does not answer.
    pub async fn ping(&self) -> Result<(), DbError> {
        type Answer = Result<i32, DbError>;
        let one = || diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"));
        let answer = match self.pools() {
            Pools::Postgres(pool) => {
                crate::__db_run!(@ Read, pool, conn, [Answer], Ok(one().get_result(conn).await?))
            }
            Pools::Sqlite(pool) => {
                crate::__db_run!(@ Read, pool, conn, [Answer], Ok(one().get_result(conn).await?))
            }
        };
        answer.map(drop)
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.pools() {
            Pools::Postgres(_) => Engine::Postgres,
            Pools::Sqlite(_) => Engine::Sqlite,
        }
    }

    /// The connections, for code that is specific to an engine. The macros use them too.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.0.pools
    }

    /// The use of each pool.
    #[must_use]
    pub fn pool_status(&self) -> Vec<PoolStatus> {
        match self.pools() {
            Pools::Postgres(db) => vec![db.status()],
            Pools::Sqlite(db) => db.status().to_vec(),
        }
    }

    /// Closes the connections; those in use are closed when they are returned. Later requests for a connection fail as
    /// unavailable.
    pub fn close(&self) {
        match self.pools() {
            Pools::Postgres(db) => db.close(),
            Pools::Sqlite(db) => db.close(),
        }
    }
}

/// Reports a pool in the metrics until the returned value is dropped.
fn watch(name: String, status: impl Fn() -> PoolStatus + Send + Sync + 'static) -> PoolMetrics {
    metrics::db_pool(name, move || {
        let PoolStatus { max, size, idle, waiting, .. } = status();
        metrics::PoolStatus { used: size.saturating_sub(idle), idle, max, pending: waiting }
    })
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("engine", &self.engine()).field("pools", &self.pool_status()).finish()
    }
}
