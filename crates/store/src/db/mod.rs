//! A service's database: one set of queries on two engines, PostgreSQL and SQLite.
//!
//! # The rooms
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
//!         let order = order.confirm()?;                  // a refusal rolls back
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
//! modules of these names must be in scope where the macro stands. The body may `.await`, use `?` and `return`, and is
//! of type `Result<T, E>` with `E:` [`Failure`]; that is the macro's type too. If the compiler cannot tell the type,
//! write it: `|conn, q| -> Result<Order, StoreError> { … }`.
//!
//! | | transaction | runs on |
//! |---|---|---|
//! | `read!` | none: each statement for itself | any connection / a reader |
//! | `snapshot!` | read-only, all statements see one moment | any connection / a reader |
//! | `write!` | all or nothing: `Ok` commits, `Err` rolls back | any connection / the one writer (`BEGIN IMMEDIATE`) |
//! | `single!` | the one statement that the body is on PostgreSQL; on SQLite as `write!` | as `write!` |
//!
//! **A body may run again.** On PostgreSQL a run that collides with another (SQLSTATE `40001`, `40P01`, in a
//! statement or at `COMMIT`) is rolled back and tried again after a jittered pause, [`Attempts::MAX`] times in all. One
//! whose connection is lost before `COMMIT` is tried again on another, [`Attempts::MAX_LOST`] times, and so is one that
//! finds its server read-only (`25006`, after a failover) or its prepared statements outdated (`0A000`, after a
//! migration); connections made before are not used again. Then it fails as [`DbError::Conflict`] or
//! [`DbError::Unavailable`]. So a body changes nothing but the database, calls no other service, and gives values away
//! by clone. A `COMMIT` whose answer is lost is not tried again, nor is a `single!` statement: it may have happened, and
//! only the caller knows how to find out.
//!
//! **A statement that fails ends its transaction**: PostgreSQL takes no other, so let the error out by `?`. A body that
//! passes over it and returns `Ok` fails at its end. If a failure is expected, write `ON CONFLICT DO NOTHING`, or put
//! the statement into `conn.transaction(async |conn| …)`, which is a savepoint here.
//!
//! A caller that gives up in the middle leaves nothing behind: the connection is closed and the transaction with it.
//! SQLite's half needs tokio's multi-threaded runtime (tests: `#[tokio::test(flavor = "multi_thread")]`).
//!
//! # Batches
//! A batch insert compiles on PostgreSQL, but not on SQLite through the async wrapper. Give both engines' modules a
//! function of one name and call it from `queries.rs` as `super::insert_lines`:
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
//! That is part of the `write!` it is called in. For a whole transaction in one hop there is
//! [`Sqlite::batch`](sqlite::Sqlite::batch), reached through [`Db::pools`].

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

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use diesel_async::RunQueryDsl;
pub use diesel_migrations::EmbeddedMigrations;
use souk_common::telemetry::metrics::{self, PoolMetrics};

pub use self::config::{Config, Pooler};
pub use self::error::{DbError, Failure, Trouble};
pub use self::session::{Attempts, Commit, Mode, Session};
pub use crate::{__db_read as read, __db_single as single, __db_snapshot as snapshot, __db_write as write};

use self::config::Target;

/// Which database a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// PostgreSQL, or what speaks its protocol.
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
    /// For PostgreSQL.
    pub postgres: EmbeddedMigrations,
    /// For SQLite.
    pub sqlite: EmbeddedMigrations,
}

/// The connections of the engine in use, for code that is written for one engine.
pub enum Pools {
    /// To PostgreSQL.
    Postgres(postgres::Postgres),
    /// To a SQLite file.
    Sqlite(sqlite::Sqlite),
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Which one: `postgres`, or `writer` and `readers` of SQLite.
    pub pool: &'static str,
    /// How many connections it may have.
    pub max: usize,
    /// How many it has.
    pub size: usize,
    /// How many of them nobody uses.
    pub idle: usize,
    /// How many requests wait for one.
    pub waiting: usize,
}

/// A service's database. A clone is another handle to the same connections.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    pools: Pools,
    migrations: Arc<Migrations>,
    /// What [`Db::is_ready`] answered last.
    was_ready: Mutex<Option<bool>>,
    _metrics: Vec<PoolMetrics>,
}

impl Db {
    /// Opens the database: connects to PostgreSQL, waiting for a server that is not up yet, or opens the SQLite
    /// file, which is made where it is not there. Runs no migration.
    ///
    /// `service` names the file `<data_dir>/<service>.db` where the settings give no URL.
    ///
    /// # Errors
    /// [`DbError::Config`] where the settings are wrong, the server refuses us or the file cannot be opened;
    /// [`DbError::Unavailable`] where the server did not come up in time.
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

    /// Runs the migrations that were not run yet, the service's and then this crate's own (`crates/store/migrations`),
    /// and returns their names. May be called by several replicas of a service at once.
    ///
    /// # Errors
    /// [`DbError::NotOurs`] where the database has others, but not the first of these. [`DbError::Migration`] where one
    /// fails; it left nothing behind. [`DbError::Unavailable`] where the disk is full,
    /// for example.
    pub async fn migrate(&self) -> Result<Vec<String>, DbError> {
        let migrations = self.0.migrations.clone();
        match self.pools() {
            Pools::Postgres(db) => migrate::postgres(db, migrations).await,
            Pools::Sqlite(db) => migrate::sqlite(db, migrations).await.map_err(|error| db.explain(error)),
        }
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] where none comes.
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

    /// Which engine it is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.pools() {
            Pools::Postgres(_) => Engine::Postgres,
            Pools::Sqlite(_) => Engine::Sqlite,
        }
    }

    /// The connections, for code that is written for one engine. The macros use it too.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.0.pools
    }

    /// How full each pool is.
    #[must_use]
    pub fn pool_status(&self) -> Vec<PoolStatus> {
        match self.pools() {
            Pools::Postgres(db) => vec![db.status()],
            Pools::Sqlite(db) => db.status().to_vec(),
        }
    }

    /// Closes the connections, those in use when they come back. What asks for one from now on is told that the
    /// database is unavailable.
    pub fn close(&self) {
        match self.pools() {
            Pools::Postgres(db) => db.close(),
            Pools::Sqlite(db) => db.close(),
        }
    }
}

/// Puts a pool among the metrics for as long as the answer lives.
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
