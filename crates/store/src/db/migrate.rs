//! Brings a database's schema up to date. Several replicas of a service may start at once: one migrates, the others
//! wait and then have nothing to do.
//!
//! Tables that every service has, such as the table of jobs, belong to common. They are created in every service's
//! database beside the service's own tables. Their SQL, schema and queries are written once, so a new service gets them
//! without code of its own. The folders of migrations have the name of their owner, `order-0001_what` and
//! `common-0001_what`, so that versions of two owners never collide. The service's own migrations run first. The first
//! migration of each owner is its baseline, which creates all tables. A database that has other migrations but not the
//! baseline is refused, because no migration upgrades it.

use std::sync::Arc;
use std::time::Duration;

use diesel::SqliteConnection;
use diesel::connection::{Connection, TransactionManager as _};
use diesel::migration::{Migration, MigrationSource};
use diesel::sql_types::BigInt;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{DbError, Migrations};

const COMMON_POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const COMMON_SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The key of the advisory lock for a database's schema: the text `souk` and a version.
const LOCK: i64 = 0x736f_756b_0001;

/// The time that a replica waits for the one that migrates.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Runs the migrations in PostgreSQL. Returns the names of those that were run.
pub(super) async fn postgres(db: &Postgres, migrations: Arc<Migrations>) -> Result<Vec<String>, DbError> {
    // The limits are long, because an index of a large table takes time, and another replica may be migrating.
    let mut conn = db.apart(Duration::ZERO, TIMEOUT).await?;
    if db.is_pooled() {
        // A session's lock would stay behind on a connection that another client then uses. A transaction has one
        // connection, so a lock that lasts until its end is safe. A second connection might never become free, since
        // all waiting replicas hold one.
        // The isolation level is set here and not by the server's default: a statement must see the changes of the
        // replica that this one waited for.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        AnsiTransactionManager::begin_transaction_sql(&mut conn, begin).await?;
        return blocking(move || {
            let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
            let lock = diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK);
            diesel::RunQueryDsl::execute(lock, &mut conn)?;
            let names = run(&mut conn, [&migrations.postgres, &COMMON_POSTGRES])?;
            // If a migration failed, the connection is dropped, and its transaction is rolled back.
            <AsyncConnectionWrapper<AsyncPgConnection> as Connection>::TransactionManager::commit_transaction(
                &mut conn,
            )?;
            Ok(names)
        })
        .await;
    }
    // The lock ends with the connection in any case.
    diesel::sql_query("SELECT pg_advisory_lock($1)").bind::<BigInt, _>(LOCK).execute(&mut conn).await?;
    blocking(move || {
        let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
        run(&mut conn, [&migrations.postgres, &COMMON_POSTGRES])
    })
    .await
}

/// Runs the migrations in SQLite, all in one transaction, so that a schema is never half upgraded.
pub(super) async fn sqlite(db: &Sqlite, migrations: Arc<Migrations>) -> Result<Vec<String>, DbError> {
    db.batch(move |conn: &mut SqliteConnection| run(conn, [&migrations.sqlite, &COMMON_SQLITE])).await
}

fn run<DB, C>(conn: &mut C, sets: [&EmbeddedMigrations; 2]) -> Result<Vec<String>, DbError>
where
    DB: diesel::backend::Backend,
    C: MigrationHarness<DB>,
{
    let applied = conn.applied_migrations().map_err(DbError::Migration)?;
    let mut pending: Vec<Box<dyn Migration<DB>>> = Vec::new();
    for (set, of_service) in sets.into_iter().zip([true, false]) {
        let mut all: Vec<Box<dyn Migration<DB>>> = set.migrations().map_err(DbError::Migration)?;
        all.sort_by(|a, b| a.name().version().cmp(&b.name().version()));
        // Only the service's baseline is checked. Common's may be missing for a moment, because each migration is a
        // transaction of its own on PostgreSQL.
        let baseline = all.as_slice().first().filter(|_| of_service).map(|baseline| baseline.name());
        if let (Some(baseline), Some(other)) = (baseline, applied.as_slice().first())
            && !applied.contains(&baseline.version())
        {
            return Err(DbError::NotOurs { baseline: baseline.to_string(), found: other.to_string() });
        }
        pending.extend(all.into_iter().filter(|migration| !applied.contains(&migration.name().version())));
    }
    let mut names = Vec::new();
    for migration in &pending {
        conn.run_migration(migration).map_err(DbError::Migration)?;
        names.push(migration.name().to_string());
    }
    Ok(names)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, DbError> + Send + 'static) -> Result<T, DbError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(DbError::Migration(Box::new(error))))
}
