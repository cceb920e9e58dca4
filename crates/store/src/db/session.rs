//! One run of a `read!`, `snapshot!` or `write!`: its connection, its transaction, and the decision whether to retry.

use std::ops::{ControlFlow, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel_async::{AsyncConnection, TransactionManager};

use super::condition::Condition;
use super::{DbError, Failure, Trouble};

/// The kind of transaction of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read-only statements without a transaction.
    Read,
    /// Read-only statements that see one snapshot.
    Snapshot,
    /// A transaction that writes.
    Write,
    /// One statement that writes, which takes effect as a whole or not at all.
    Single,
}

impl Mode {
    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Single)
    }
}

/// How an engine begins and ends a transaction.
#[doc(hidden)]
pub trait Transaction: AsyncConnection {
    /// Begins the transaction of a run, if the connection came without it.
    fn begin(&mut self, mode: Mode) -> impl Future<Output = QueryResult<()>> + Send {
        let _ = mode;
        std::future::ready(Ok(()))
    }

    /// Commits the transaction.
    fn commit(&mut self) -> impl Future<Output = QueryResult<()>> + Send;
}

/// Counts the tries of a transaction, and chooses the pause before the next one.
#[derive(Debug, Default)]
pub struct Attempts {
    collided: u32,
    lost: u32,
}

impl Attempts {
    /// The most tries of a transaction that collides with others.
    pub const MAX: u32 = 10;

    /// The most retries on another connection. The number is small, because a body that hangs until the server ends its
    /// transaction also looks like a lost connection.
    pub const MAX_LOST: u32 = 3;

    /// Number of connections that were lost or became unusable.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Counts a failure. Returns the pause before the next try; `None` if there is to be none.
    pub(super) fn another(&mut self, error: &DbError) -> Option<Duration> {
        if error.is_conflict() {
            self.collided += 1;
            // Random between zero and a bound that doubles each time (full jitter), so that transactions that collided
            // do not collide again.
            let bound = Duration::from_millis(4 << self.collided.min(7));
            (self.collided < Self::MAX).then(|| bound.mul_f64(rand::random()))
        } else if error.is_of_the_connection() {
            self.lost += 1;
            (self.lost < Self::MAX_LOST).then_some(Duration::ZERO)
        } else {
            None
        }
    }
}

/// Removes a connection from its pool and closes it. If the flag is true, a statement may still run on the connection
/// and is cancelled.
pub(super) type Discard<P> = Arc<dyn Fn(P, bool) + Send + Sync>;

/// A connection for one run. If it is dropped before [`Session::end`], because a caller gives up or a deadline passes,
/// the connection is removed from the pool and closed, so that the next run gets neither an open transaction nor a
/// running statement.
pub struct Session<P: DerefMut> {
    /// `None` after the connection has returned to the pool.
    conn: Option<P>,
    discard: Discard<P>,
    /// True until the body has ended.
    running: bool,
    mode: Mode,
    condition: Arc<Condition>,
}

impl<P> Session<P>
where
    P: DerefMut,
    P::Target: Transaction,
{
    /// Creates a session with a connection from a pool.
    pub(super) fn new(conn: P, discard: Discard<P>, mode: Mode, condition: Arc<Condition>) -> Self {
        Self { conn: Some(conn), discard, running: true, mode, condition }
    }

    /// The connection. Fails only after the connection was returned, which the macros rule out.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] after the connection was returned to the pool.
    pub fn conn(&mut self) -> Result<&mut P::Target, DbError> {
        match &mut self.conn {
            Some(conn) => Ok(&mut **conn),
            None => Err(DbError::unavailable("connection given back")),
        }
    }

    /// Begins the transaction, if the run needs one.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if another process holds SQLite's file.
    pub async fn begin(&mut self) -> Result<(), DbError> {
        let mode = self.mode;
        let begun = self.conn()?.begin(mode).await.map_err(DbError::from);
        if let Err(error) = &begun {
            self.condition.note(error, mode == Mode::Write);
        }
        begun
    }

    /// Commits if the body succeeded, rolls back if it failed, and decides whether to retry.
    pub async fn end<T, E: Failure>(
        mut self,
        result: Result<T, E>,
        attempts: &mut Attempts,
    ) -> ControlFlow<Result<T, E>> {
        self.running = false;
        let (error, committing) = match result {
            Ok(value) => match self.commit().await {
                Ok(()) => {
                    self.give_back();
                    return ControlFlow::Break(Ok(value));
                }
                Err(error) => (E::from(error), self.mode.writes()),
            },
            Err(error) => (error, self.mode == Mode::Single),
        };
        let cause = error.db();
        if let Some(cause) = cause {
            self.condition.note(cause, self.mode.writes());
        }
        let spoiled = cause.is_some_and(DbError::spoils_connection);
        // A connection that cannot roll back is unusable, too; `drop` closes it.
        if !spoiled && self.rollback().await.is_ok() {
            self.give_back();
        }
        let pause = match cause {
            // A commit whose answer was lost is not retried, because it may have taken effect. Work that was lost
            // before the commit was rolled back with its connection.
            Some(cause) if committing && cause.is_lost() => None,
            // The body of a read cannot write on another server either.
            Some(cause) if !self.mode.writes() && cause.trouble() == Some(Trouble::ReadOnly) => None,
            Some(cause) => attempts.another(cause),
            None => None,
        };
        let Some(pause) = pause else {
            return ControlFlow::Break(Err(error));
        };
        drop(self);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        ControlFlow::Continue(())
    }

    /// True if the session began a transaction, which it must end.
    fn has_transaction(&self) -> bool {
        matches!(self.mode, Mode::Snapshot | Mode::Write)
    }

    async fn commit(&mut self) -> Result<(), DbError> {
        if !self.has_transaction() {
            return Ok(());
        }
        let conn = self.conn()?;
        Ok(conn.commit().await?)
    }

    async fn rollback(&mut self) -> Result<(), DbError> {
        if !self.has_transaction() {
            return Ok(());
        }
        let conn = self.conn()?;
        Ok(<P::Target as AsyncConnection>::TransactionManager::rollback_transaction(conn).await?)
    }
}

impl<P: DerefMut> Session<P> {
    fn give_back(&mut self) {
        drop(self.conn.take());
    }
}

impl<P: DerefMut> Drop for Session<P> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            (self.discard)(conn, self.running);
        }
    }
}
