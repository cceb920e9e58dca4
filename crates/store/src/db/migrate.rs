//! Brings a database's schema up to date. Several replicas of a service may start at once: one migrates, the others
//! wait and find nothing left to do.
//!
//! The tables of common's own, such as those of jobs, are made in every service's database beside the service's: their
//! SQL, their schema and their queries stand once, in common, and a new service has them without a line of its own.
//! The folders are named after their owner, `order-0001_what` and `common-0001_what`, so that no two owners have one of the
//! same version. A service's own come first. The first of each owner is its baseline, which makes all tables. A database
//! that has others without it is refused: no migration leads from there to here.

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

/// The advisory lock that stands for "this database's schema": the text `souk` and a version.
const LOCK: i64 = 0x736f_756b_0001;

/// How long a replica waits for the one that migrates.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Returns the names of the migrations that were run.
pub(super) async fn postgres(db: &Postgres, migrations: Arc<Migrations>) -> Result<Vec<String>, DbError> {
    // An index over a large table takes its time, and so does the replica that we wait for.
    let mut conn = db.apart(Duration::ZERO, TIMEOUT).await?;
    if db.is_pooled() {
        // A lock of the session's would stay behind with a connection that is another's by then. One transaction has
        // one connection, so what is held until its end is ours; a second connection might never come free, since all
        // replicas that wait hold one.
        // At this level, whatever the server's default is: a statement must see what the one that we waited for has made.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        AnsiTransactionManager::begin_transaction_sql(&mut conn, begin).await?;
        return blocking(move || {
            let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
            let lock = diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK);
            diesel::RunQueryDsl::execute(lock, &mut conn)?;
            let names = run(&mut conn, [&migrations.postgres, &COMMON_POSTGRES])?;
            // If one of them failed, the connection is dropped, and the transaction with it.
            <AsyncConnectionWrapper<AsyncPgConnection> as Connection>::TransactionManager::commit_transaction(
                &mut conn,
            )?;
            Ok(names)
        })
        .await;
    }
    // It goes with the connection, whatever happens.
    diesel::sql_query("SELECT pg_advisory_lock($1)").bind::<BigInt, _>(LOCK).execute(&mut conn).await?;
    blocking(move || {
        let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
        run(&mut conn, [&migrations.postgres, &COMMON_POSTGRES])
    })
    .await
}

/// All in one transaction: a schema is never half new.
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
        // Common's baseline may be missing for a moment: each migration is a transaction of its own on PostgreSQL.
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
