//! Checks whether a database can serve requests now: it answers, and it accepts writes.

use std::sync::PoisonError;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::Bool;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use super::config::Chain;
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{Db, DbError, Pools};

/// The timeout of the check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Writes enough pages to prove that the disk has room for an order. They are dropped at the commit.
const POSTGRES: &str = "CREATE TEMPORARY TABLE souk_write_check ON COMMIT DROP AS
    SELECT number FROM generate_series(1, 8000) AS number";

/// The same for SQLite. A table that is dropped before the commit is never written, so this one is committed first, and
/// then dropped.
const SQLITE: &str = "DROP TABLE IF EXISTS souk_write_check;
    CREATE TABLE souk_write_check (bytes BLOB);
    INSERT INTO souk_write_check VALUES (zeroblob(262144));";

impl Db {
    /// Checks that requests can be served: the database answers and is not read-only, unlike a standby or a former
    /// primary. If a run has found that nothing can be stored, for example because the disk is full, the check also
    /// tries to store something.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] with the reason.
    pub async fn ready(&self) -> Result<(), DbError> {
        match self.pools() {
            Pools::Postgres(pool) => postgres(pool).await,
            Pools::Sqlite(pool) => {
                self.ping().await?;
                sqlite(pool).await
            }
        }
    }

    /// Like [`Self::ready`], but returns a boolean for a server's readiness, and logs a change.
    pub async fn is_ready(&self) -> bool {
        let ready = self.ready().await;
        let now = ready.is_ok();
        let before = self.0.was_ready.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        match ready {
            Ok(()) if before == Some(false) => tracing::info!("the database is ready again"),
            Err(error) if before != Some(false) => {
                tracing::warn!(error = %Chain(&error), "not ready: the database cannot serve requests");
            }
            _ => {}
        }
        now
    }
}

async fn postgres(pool: &Postgres) -> Result<(), DbError> {
    type Answer = Result<bool, DbError>;
    let mut asked = 0;
    loop {
        let writable: Answer = crate::__db_run!(@ Read, pool, conn, [Answer], {
            let setting = diesel::dsl::sql::<Bool>("current_setting('transaction_read_only') = 'off'");
            let query = diesel::select(setting).get_result(conn);
            match tokio::time::timeout(TIMEOUT, query).await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(DbError::lost("the server does not answer")),
            }
        });
        asked += 1;
        match writable? {
            true => break,
            // The server may have become read-only long after the connection was made, and another server may be the
            // primary now.
            false => pool.condition().retire(),
        }
        if asked == 2 {
            return Err(DbError::read_only());
        }
    }
    let Some(trouble) = pool.condition().take_trouble() else { return Ok(()) };
    type Done = Result<(), DbError>;
    let stored = crate::__db_run!(@ Write, pool, conn, [Done], Ok(conn.batch_execute(POSTGRES).await?));
    match stored {
        // Any other error is ignored: a role that may not create temporary tables cannot check this.
        Err(error) if error.is_unavailable() => {
            pool.condition().note_trouble(trouble);
            Err(error)
        }
        _ => Ok(()),
    }
}

async fn sqlite(pool: &Sqlite) -> Result<(), DbError> {
    let Some(trouble) = pool.condition().take_trouble() else { return Ok(()) };
    let stored = pool.batch(|conn| Ok::<_, DbError>(conn.batch_execute(SQLITE)?)).await;
    if let Err(error) = stored {
        pool.condition().note_trouble(trouble);
        return Err(pool.explain(error));
    }
    pool.batch(|conn| Ok(conn.batch_execute("DROP TABLE souk_write_check")?)).await
}
