//! The PostgreSQL engine: one pool of connections, each with the timeouts of the settings.

mod connect;
mod pooled;
mod server;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{QueueMode, WeakPool};
use diesel::connection::TransactionDepthChange;
use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::{ConnectionError, QueryResult};
use diesel_async::pooled_connection::deadpool::{Hook, HookError, Object, Pool, PoolError};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError as InnerError, RecyclingMethod,
};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager};
use tokio_postgres::error::SqlState;
use tokio_rustls::rustls;

pub(super) use self::connect::Connector;
use self::connect::Insecure;
pub(super) use self::server::Server;
use super::condition::Condition;
use super::config::{Chain, Config};
use super::hosts::Hosts;
use super::session::{Attempts, Discard, Mode, Session, Transaction};
use super::{DbError, Failure, PoolStatus};

/// The connection type that PostgreSQL queries use.
pub type Conn = AsyncPgConnection;

/// The connection of one run.
pub type PgSession = Session<Object<Conn>>;

/// A statement whose parameters are bound one after the other.
pub type Statement<'a> = BoxedSqlQuery<'a, Pg, SqlQuery>;

diesel::define_sql_function! {
    /// The index of `needle` in `haystack`, counted from 1; 0 if it does not occur.
    #[sql_name = "strpos"]
    fn position(haystack: diesel::sql_types::Nullable<diesel::sql_types::Text>, needle: diesel::sql_types::Text)
        -> diesel::sql_types::Nullable<diesel::sql_types::Integer>;
}

/// A statement whose `ORDER BY` is that of an index is read only as far as its caller needs, even if its rows come from
/// another `SELECT` with a limit.
pub const STOPS_EARLY: bool = true;

/// Keys for `eq_any`: here the whole list is one parameter.
#[must_use]
pub fn padded<T: Clone>(keys: &[T]) -> Vec<T> {
    keys.to_vec()
}

/// The results of pipelined statements, in the order in which they were sent. If several failed, the result is the
/// first failure: PostgreSQL answers every later statement only with the fact that an earlier one failed.
///
/// # Errors
/// If one of them failed.
pub fn together<T, E: Failure>(results: impl IntoIterator<Item = Result<T, E>>) -> Result<Vec<T>, E> {
    let (mut done, mut failed) = (Vec::new(), None::<E>);
    for result in results {
        match result {
            Ok(answer) => done.push(answer),
            Err(error) if failed.as_ref().is_none_or(|first| first.db().is_some_and(DbError::is_aftermath)) => {
                failed = Some(error);
            }
            Err(_) => {}
        }
    }
    failed.map_or(Ok(done), Err)
}

/// Runs statements one by one on a separate connection, each outside a transaction. Tools use it to administer a
/// server, for example to create databases.
///
/// # Errors
/// [`DbError`] if no connection can be made, or a statement fails.
pub async fn execute(config: &Config, statements: &[String]) -> Result<(), DbError> {
    let connector = Connector::new(Server::read(config)?, config)?;
    let connected = Hosts::of(connector.settings(), config.acquire_timeout).connect(&connector).await;
    let mut conn = connected.map_err(|error| sort(PoolError::Backend(InnerError::ConnectionError(error))))?;
    for statement in statements {
        conn.batch_execute(statement).await?;
    }
    Ok(())
}

/// A pool of connections to one PostgreSQL database.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool<Conn>,
    connector: Arc<Connector>,
    hosts: Arc<Hosts>,
    wait: Duration,
    condition: Arc<Condition>,
    discard: Discard<Object<Conn>>,
}

impl Postgres {
    /// Creates the pool and its first connection. Waits for a server that is not up yet.
    pub(super) async fn connect(server: Server, config: &Config) -> Result<Self, DbError> {
        let connector = Arc::new(Connector::new(server, config)?);
        let hosts = Arc::new(Hosts::of(connector.settings(), config.acquire_timeout));
        let condition = Arc::new(Condition::of(config));
        let mut manager = ManagerConfig::default();
        // The check whether a connection is alive needs no round trip. If a connection has died unnoticed, `BEGIN`
        // fails, and another one is used.
        manager.recycling_method = RecyclingMethod::Fast;
        let setup = (hosts.clone(), connector.clone());
        manager.custom_setup = Box::new(move |_| {
            let (hosts, connector) = setup.clone();
            Box::pin(async move { hosts.connect(&connector).await })
        });
        let manager = AsyncDieselConnectionManager::new_with_config("", manager);
        let found = condition.clone();
        let pool = Pool::builder(manager)
            .max_size(config.postgres_connections())
            // The pool uses the connection that was used last, so that connections that are not needed in a quiet hour
            // become idle and are closed.
            .queue_mode(QueueMode::Lifo)
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if found.is_fit(metrics) { Ok(()) } else { Err(HookError::message("not used again")) }
            }))
            .build()
            .map_err(|error| DbError::Config(format!("cannot be used: {error}")))?;
        tokio::spawn(close_old(pool.weak(), condition.clone()));
        let discard = discard_with(connector.clone());
        let postgres = Self { pool, connector, hosts, wait: config.acquire_timeout, condition, discard };
        postgres.wait_until_up(config.startup_timeout).await?;
        postgres.warn_of_other_languages().await;
        Ok(postgres)
    }

    /// Warns if the server's messages are not in English. Deadlocks, timeouts, full disks and outdated statements are
    /// recognised by their English texts, because diesel does not keep their SQLSTATE. A server without this setting is
    /// assumed to speak English.
    async fn warn_of_other_languages(&self) {
        #[derive(diesel::QueryableByName)]
        struct Language {
            #[diesel(sql_type = diesel::sql_types::Text)]
            language: String,
        }
        let Ok(mut conn) = self.get().await else { return };
        let found: diesel::QueryResult<Language> =
            diesel::sql_query("SELECT current_setting('lc_messages') AS language").get_result(&mut conn).await;
        if let Ok(Language { language }) = found
            && !["", "C", "POSIX", "en"].iter().any(|known| language == *known)
            && !["C.", "en_"].iter().any(|known| language.starts_with(known))
        {
            tracing::warn!(
                lc_messages = language,
                "PostgreSQL's messages are not in English: deadlocks are not retried, and a full disk or a timeout is \
                 taken for a fault of souk; set lc_messages to C"
            );
        }
    }

    /// Connects. While the server is starting or absent, tries again, until `limit` has passed.
    async fn wait_until_up(&self, limit: Duration) -> Result<(), DbError> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match self.get().await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let now = tokio::time::Instant::now();
            if !error.is_unavailable() || now + pause > deadline {
                return Err(error);
            }
            tracing::warn!(error = %Chain(&error), "waiting for PostgreSQL");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// A connection without a transaction. Waits at most for the acquire timeout.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if no connection becomes free or can be made; [`DbError::Query`] if the server refuses
    /// the client.
    pub async fn get(&self) -> Result<Object<Conn>, DbError> {
        match tokio::time::timeout(self.wait, self.pool.get()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(sort(error)),
            Err(_) => Err(DbError::unavailable("no connection came free in time")),
        }
    }

    /// A connection for a run, in which the transaction has begun. Used by the macros.
    ///
    /// # Errors
    /// The errors of [`Postgres::get`].
    #[doc(hidden)]
    pub async fn session(&self, mode: Mode, attempts: &Attempts) -> Result<PgSession, DbError> {
        let begin = match mode {
            Mode::Read | Mode::Single => None,
            // A read-only transaction at this level sees one snapshot, and never fails because of others' writes.
            Mode::Snapshot => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Mode::Write => Some("BEGIN"),
        };
        let mut lost = attempts.lost();
        loop {
            let conn = self.get().await?;
            let mut session = Session::new(conn, self.discard.clone(), mode, self.condition.clone());
            let Some(begin) = begin else {
                return Ok(session);
            };
            let begun = AnsiTransactionManager::begin_transaction_sql(session.conn()?, begin);
            // A live server answers at once. A server whose machine is gone never answers.
            let error = match tokio::time::timeout(self.wait, begun).await {
                Ok(Ok(())) => return Ok(session),
                Ok(Err(error)) => DbError::from(error),
                Err(_) => DbError::lost("the server does not answer"),
            };
            self.condition.note(&error, mode == Mode::Write);
            if !error.is_of_the_connection() || lost >= Attempts::MAX_LOST {
                return Err(error);
            }
            lost += 1;
        }
    }

    /// A connection outside the pool, with its own limits for a statement and for the wait for a lock.
    pub(super) async fn apart(&self, statement: Duration, lock: Duration) -> Result<Conn, DbError> {
        let connected = self.hosts.connect(&self.connector.with_limits(statement, lock)).await;
        connected.map_err(|error| sort(PoolError::Backend(InnerError::ConnectionError(error))))
    }

    /// True if a pooler shares the connections with other clients between transactions.
    pub(super) fn is_pooled(&self) -> bool {
        self.connector.is_pooled()
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Runs the work of a session. Used by the macros.
    #[doc(hidden)]
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        work.await
    }

    pub(super) fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            pool: "postgres",
            max: status.max_size,
            size: status.size,
            idle: status.available,
            waiting: status.waiting,
        }
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}

impl Transaction for Conn {
    /// If a statement in the transaction has failed, PostgreSQL answers `COMMIT` with a rollback and no error. A body
    /// that ignored the failure would then seem to have succeeded. A statement before the `COMMIT` fails in that case.
    async fn commit(&mut self) -> QueryResult<()> {
        self.batch_execute("SELECT 1; COMMIT").await?;
        AnsiTransactionManager::transaction_manager_status_mut(self)
            .transaction_state()?
            .change_transaction_depth(TransactionDepthChange::DecreaseDepth)
    }
}

/// Closes connections. The server does not notice that its client has left before a statement ends, so a statement that
/// may still run is cancelled. Until the cancel request is sent, the connection keeps its place in the pool, so that
/// callers that give up repeatedly cannot pile up statements on the server. With a pooler nothing is cancelled:
/// PgBouncer 1.18 does not pass the request on, and needs a connection for it that others wait for.
fn discard_with(connector: Arc<Connector>) -> Discard<Object<Conn>> {
    Arc::new(move |conn, running| match tokio::runtime::Handle::try_current() {
        Ok(runtime) if running && !connector.is_pooled() => {
            let connector = connector.clone();
            runtime.spawn(async move {
                connector.cancel(conn.cancel_token()).await;
                drop(Object::take(conn));
            });
        }
        _ => drop(Object::take(conn)),
    })
}

/// Closes unused connections that have exceeded their maximum age or idle time, until the pool is dropped.
async fn close_old(pool: WeakPool<AsyncDieselConnectionManager<Conn>>, condition: Arc<Condition>) {
    let Some(every) = condition.look_every() else { return };
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else { return };
        pool.retain(|_, metrics| !condition.is_old(&metrics));
    }
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// The driver or the server reported an error.
    #[error("{}{}", Chain(.0), hint(.0))]
    Driver(#[from] tokio_postgres::Error),
    /// The database's encoding is not the one in which texts are sent.
    #[error(
        "the database's encoding is {0}, which cannot hold every text: souk needs UTF8; \
         make it by CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
}

/// Advice for errors whose own message does not say what to do.
fn hint(error: &tokio_postgres::Error) -> &'static str {
    match error.as_db_error() {
        Some(error) if error.message().starts_with("unsupported startup parameter") => {
            "; behind PgBouncer and the like, say pooler=transaction"
        }
        _ => "",
    }
}

impl Refused {
    /// True if the same attempt may succeed later. A wrong password, name or certificate stays wrong.
    fn may_pass(&self) -> bool {
        let Self::Driver(error) = self else { return false };
        let Some(code) = error.code() else { return !is_insecure(error) };
        // Class 08: the connection failed. 53: the server has no connection, memory or disk left. 58: a system error.
        let passing = ["08", "53", "58"].iter().any(|class| code.code().starts_with(class));
        // 57P01, 57P02, 57P03: the server is starting, is stopping or has crashed.
        passing || matches!(*code, SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN)
    }
}

/// True if TLS is the cause: the certificate or protocol of one side does not satisfy the other.
fn is_insecure(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // The source of an I/O error is not the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let wrapped = wrapped.map_or(error, |wrapped| wrapped as &(dyn std::error::Error + 'static));
        if wrapped.is::<rustls::Error>() || wrapped.is::<Insecure>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// True if a server refused the client for good, because the settings are wrong.
pub(super) fn is_refusal(error: &ConnectionError) -> bool {
    let ConnectionError::CouldntSetupConfiguration(diesel::result::Error::QueryBuilderError(refused)) = error else {
        return false;
    };
    refused.downcast_ref::<Refused>().is_some_and(|refused| !refused.may_pass())
}

fn sort(error: PoolError) -> DbError {
    match error {
        PoolError::Backend(InnerError::ConnectionError(error)) if is_refusal(&error) => {
            DbError::Config(format!("leads to a server that refuses us: {error}"))
        }
        PoolError::Backend(InnerError::ConnectionError(ConnectionError::CouldntSetupConfiguration(error))) => {
            DbError::unavailable_because("cannot connect", error)
        }
        PoolError::Backend(InnerError::QueryError(error)) => error.into(),
        PoolError::Backend(error) => DbError::unavailable_because("cannot connect", error),
        PoolError::Closed => DbError::unavailable("shutting down"),
        error => DbError::unavailable_because("cannot connect", error),
    }
}
