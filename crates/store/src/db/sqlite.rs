//! The SQLite engine: one writer, so that writes queue here and do not collide in the file, and a few readers that
//! never wait for the writer (WAL).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::{AnsiTransactionManager, InstrumentationEvent, SimpleConnection};
use diesel::{Connection, ConnectionError, ConnectionResult, QueryResult, SqliteConnection};
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolError};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError as InnerError, RecyclingMethod,
};
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use diesel_async::{AsyncConnection, TransactionManager};
use futures::future::{BoxFuture, poll_fn, ready};
use tokio::task::block_in_place;

use super::condition::Condition;
use super::config::{Chain, Config};
use super::error::trouble_within;
use super::session::{Attempts, Discard, Mode, Session, Transaction};
use super::{DbError, Failure, PoolStatus, Trouble};

/// The connection type that SQLite queries use. Its futures run their statement at once, on the thread that polls them,
/// so they must be polled within [`Sqlite::run`].
pub type Conn = SyncConnectionWrapper<SqliteConnection, Here>;

/// Runs the statements of a connection on the thread that asks for them.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl SpawnBlocking for Here {
    fn spawn_blocking<'a, R: Send + 'static>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn std::error::Error + Send + Sync>>> {
        let ended = catch_unwind(AssertUnwindSafe(task)).map_err(|_| "the work panicked".into());
        Box::pin(ready(ended))
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// The connection of one run.
pub type SqliteSession = Session<Object<Conn>>;

// A commit returns when the data is on the disk (FULL). The page cache is small, because the operating system caches
// the file anyway.
const EVERY_CONNECTION: &str = "
    PRAGMA busy_timeout = 5000;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA mmap_size = 0;
    PRAGMA cache_size = -1024;
";
// The journal mode is stored in the file, so the first connection sets it for all.
const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 16777216;";
const READER: &str = "PRAGMA query_only = ON;";

diesel::define_sql_function! {
    /// The index of `needle` in `haystack`, counted from 1; 0 if it does not occur.
    #[sql_name = "instr"]
    fn position(haystack: diesel::sql_types::Nullable<diesel::sql_types::Text>, needle: diesel::sql_types::Text)
        -> diesel::sql_types::Nullable<diesel::sql_types::Integer>;
}

/// SQLite reads and sorts all rows of another `SELECT`, even if its caller needs only the first ones.
pub const STOPS_EARLY: bool = false;

/// Keys for `eq_any`. SQLite has no parameter for a list, so its length is part of the statement. The last key is
/// repeated until the length is a power of two: then there are few different statements, and they stay prepared.
#[must_use]
pub fn padded<T: Clone>(keys: &[T]) -> Vec<T> {
    let mut padded = keys.to_vec();
    if let Some(last) = keys.last() {
        padded.resize(keys.len().next_power_of_two(), last.clone());
    }
    padded
}

/// The connections to one SQLite file.
#[derive(Clone)]
pub struct Sqlite {
    writer: Pool<Conn>,
    readers: Pool<Conn>,
    path: Arc<Path>,
    wait: Duration,
    condition: Arc<Condition>,
    discard: Discard<Object<Conn>>,
}

impl Sqlite {
    /// Opens the file. Creates it if it does not exist, readable only by its owner.
    pub(super) async fn connect(path: PathBuf, config: &Config) -> Result<Self, DbError> {
        let path = std::path::absolute(path).map_err(|error| DbError::Config(format!("is not a path: {error}")))?;
        let Some(name) = path.to_str().map(str::to_owned) else {
            return Err(DbError::Config("is a path that is not UTF-8".into()));
        };
        create(&path).map_err(|error| match trouble_of(&error) {
            Some(trouble) => explained(&path, trouble, Box::new(error)),
            None => DbError::Config(format!("{name} cannot be opened: {error}")),
        })?;
        let sqlite = Self {
            writer: pool(&name, WRITER, 1)?,
            readers: pool(&name, READER, config.sqlite_readers())?,
            path: path.into(),
            wait: config.acquire_timeout,
            condition: Arc::default(),
            discard: Arc::new(|conn, _| discard(conn)),
        };
        sqlite.wait_until_open(config.startup_timeout).await.map_err(|error| sqlite.explain(error))?;
        Ok(sqlite)
    }

    /// If the file causes the trouble, adds to the error which file it is and what to do.
    pub(super) fn explain(&self, error: DbError) -> DbError {
        match trouble_within(&error) {
            Some(trouble @ (Trouble::DiskFull | Trouble::DiskFails | Trouble::ReadOnly)) => {
                let cause = match error {
                    DbError::Unavailable { source: Some(cause), .. } => cause,
                    error => Box::new(error),
                };
                explained(&self.path, trouble, cause)
            }
            _ => error,
        }
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Opens the file, with retries. While another process turns WAL on or recovers, SQLite refuses at once, in spite
    /// of the busy timeout.
    async fn wait_until_open(&self, limit: Duration) -> Result<(), DbError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            // The writer comes first: it turns WAL on, which a reader cannot do.
            let opened = match self.writer().await {
                Ok(_) => self.reader().await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(_) => return Ok(()),
                Err(error) if error.is_busy() && tokio::time::Instant::now() < deadline => {
                    tracing::debug!(error = %Chain(&error), "waiting for SQLite's file");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The one connection that may write. Waits for it at most for the acquire timeout.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if it does not become free in time.
    pub async fn writer(&self) -> Result<Object<Conn>, DbError> {
        get(&self.writer, self.wait).await
    }

    /// A connection that may read.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if none becomes free in time.
    pub async fn reader(&self) -> Result<Object<Conn>, DbError> {
        get(&self.readers, self.wait).await
    }

    /// Runs one transaction (`BEGIN IMMEDIATE`) with plain diesel. It is committed if `work` returns `Ok`, and rolled
    /// back if it returns an error or panics.
    ///
    /// # Errors
    /// The error of `work`, or a failure of the database.
    pub async fn batch<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure + 'static,
        F: FnOnce(&mut SqliteConnection) -> Result<T, E> + Send + 'static,
    {
        let mut conn = self.writer().await?;
        match self.run(async { conn.spawn_blocking(move |conn| Ok(conn.immediate_transaction(work))).await }).await {
            Ok(result) => result,
            // The work panicked and left its transaction open.
            Err(error) => {
                discard(conn);
                Err(error.into())
            }
        }
    }

    /// Runs work that only waits for this file's statements, on this thread. So a transaction needs one change of
    /// threads, and not one for each statement: the runtime moves its other tasks to another thread meanwhile.
    #[doc(hidden)]
    #[expect(clippy::disallowed_methods, reason = "spawn_blocking cannot run work that borrows")]
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        poll_fn(|context| block_in_place(|| work.as_mut().poll(context))).await
    }

    /// A connection for a run. Used by the macros.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if no connection becomes free.
    #[doc(hidden)]
    pub async fn session(&self, mode: Mode, _attempts: &Attempts) -> Result<SqliteSession, DbError> {
        let (conn, mode) = match mode {
            Mode::Read | Mode::Snapshot => (self.reader().await?, mode),
            // What is one statement on PostgreSQL may be several statements here.
            Mode::Write | Mode::Single => (self.writer().await?, Mode::Write),
        };
        Ok(Session::new(conn, self.discard.clone(), mode, self.condition.clone()))
    }

    pub(super) fn status(&self) -> [PoolStatus; 2] {
        [("writer", &self.writer), ("readers", &self.readers)].map(|(name, pool)| {
            let status = pool.status();
            PoolStatus {
                pool: name,
                max: status.max_size,
                size: status.size,
                idle: status.available,
                waiting: status.waiting,
            }
        })
    }

    pub(super) fn close(&self) {
        self.readers.close();
        self.writer.close();
    }
}

impl Transaction for Conn {
    async fn begin(&mut self, mode: Mode) -> QueryResult<()> {
        let begin = match mode {
            Mode::Read => return Ok(()),
            Mode::Snapshot => "BEGIN",
            Mode::Write | Mode::Single => "BEGIN IMMEDIATE",
        };
        self.spawn_blocking(move |conn| AnsiTransactionManager::begin_transaction_sql(conn, begin)).await
    }

    async fn commit(&mut self) -> QueryResult<()> {
        <Conn as AsyncConnection>::TransactionManager::commit_transaction(self).await
    }
}

fn discard(conn: Object<Conn>) {
    drop(Object::take(conn));
}

/// A file system with less free space (in bytes) counts as full: SQLite also needs room for its WAL and the WAL's
/// index.
const LITTLE: u64 = 256 * 1024;

/// The kind of trouble of an I/O error; `None` if nobody can fix it.
fn trouble_of(error: &std::io::Error) -> Option<Trouble> {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(Trouble::DiskFull),
        std::io::ErrorKind::ReadOnlyFilesystem => Some(Trouble::ReadOnly),
        _ => None,
    }
}

fn explained(path: &Path, trouble: Trouble, cause: Box<dyn std::error::Error + Send + Sync>) -> DbError {
    let folder = path.parent().unwrap_or(path);
    let free = rustix::fs::statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    // If there is no room for the WAL's index, SQLite reports only an I/O error.
    let trouble = if free.is_some_and(|free| free < LITTLE) { Trouble::DiskFull } else { trouble };
    let (path, folder) = (path.display(), folder.display());
    let reason = match trouble {
        Trouble::DiskFull => {
            let free = free.map(|free| format!(" ({} KiB free)", free / 1024)).unwrap_or_default();
            format!("the disk of {path} is full{free}: make room in {folder} or on its file system")
        }
        Trouble::ReadOnly => {
            format!("{path} can only be read: the file, {folder} and its file system must be writable for this user")
        }
        _ => format!("{path} cannot be read or written: look at its disk, its permissions and the system's log"),
    };
    DbError::Unavailable { trouble, reason: reason.into(), source: Some(cause) }
}

fn create(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn pool(path: &str, pragmas: &'static str, size: usize) -> Result<Pool<Conn>, DbError> {
    let mut manager = ManagerConfig::default();
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |path| {
        let path = path.to_owned();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || open(&path, pragmas))
                .await
                .unwrap_or_else(|error| Err(ConnectionError::BadConnection(error.to_string())))
                .map(Conn::new)
        })
    });
    Pool::builder(AsyncDieselConnectionManager::new_with_config(path, manager))
        .max_size(size)
        .build()
        .map_err(|error| DbError::Config(format!("cannot be used: {error}")))
}

fn open(path: &str, pragmas: &str) -> ConnectionResult<SqliteConnection> {
    let mut conn = SqliteConnection::establish(path)?;
    conn.batch_execute(EVERY_CONNECTION)
        .and_then(|()| conn.batch_execute(pragmas))
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    log_statements(path, &mut conn);
    Ok(conn)
}

/// Logs each statement without its values, if the log filter says so: SQLite has no log of its own.
fn log_statements(path: &str, conn: &mut SqliteConnection) {
    if !tracing::enabled!(target: "souk_store::sql", tracing::Level::TRACE) {
        return;
    }
    let path = path.to_owned();
    conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let text = query.to_string();
            // diesel appends the values as a comment.
            let sql =
                text.split("-- binds:").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            tracing::trace!(target: "souk_store::sql", path, sql, "statement");
        }
    });
}

async fn get(pool: &Pool<Conn>, wait: Duration) -> Result<Object<Conn>, DbError> {
    match tokio::time::timeout(wait, pool.get()).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(PoolError::Closed)) => Err(DbError::unavailable("shutting down")),
        Ok(Err(PoolError::Backend(InnerError::ConnectionError(ConnectionError::CouldntSetupConfiguration(error))))) => {
            Err(error.into())
        }
        Ok(Err(error)) => {
            let trouble = trouble_within(&error).unwrap_or(Trouble::Unreachable);
            Err(DbError::of(trouble, "cannot open the file", error))
        }
        Err(_) => Err(DbError::unavailable("no connection came free in time")),
    }
}
