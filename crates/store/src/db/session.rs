//! One run of a `read!`, `snapshot!` or `write!`: a connection, the transaction on it, and the decision to try again.

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
    /// Statements that change nothing, without a transaction.
    Read,
    /// Statements that change nothing and see one snapshot.
    Snapshot,
    /// A transaction.
    Write,
    /// One statement that writes, which happens as a whole or not at all.
    Single,
}

impl Mode {
    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Single)
    }
}

/// How an engine ends a transaction.
#[doc(hidden)]
pub trait Commit: AsyncConnection {
    /// Commits the transaction.
    fn commit(&mut self) -> impl Future<Output = QueryResult<()>> + Send;
}

/// The tries of a transaction, and the pause before the next one.
#[derive(Debug, Default)]
pub struct Attempts {
    collided: u32,
    lost: u32,
}

impl Attempts {
    /// How often a transaction is tried at most while it collides with others.
    pub const MAX: u32 = 10;

    /// The most retries on another connection. Few, because a body that hangs until the server ends its transaction
    /// also looks like a lost connection.
    pub const MAX_LOST: u32 = 3;

    /// How often a connection was lost or became unusable.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// Counts a failure. The pause before another try, if one is due.
    pub(super) fn another(&mut self, error: &DbError) -> Option<Duration> {
        if error.is_conflict() {
            self.collided += 1;
            // Full jitter under a doubling bound, so that those who collided do not meet again.
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

/// What becomes of a connection that is not used again: it is taken out of its pool and closed. With `true`, a
/// statement may still run on it, which is to stop.
pub(super) type Discard<P> = Arc<dyn Fn(P, bool) + Send + Sync>;

/// A connection for one run. Dropped before [`Session::end`], as when a caller gives up or a deadline passes, it takes
/// its connection out of the pool and closes it, so that neither an open transaction nor a statement still running is
/// left to the next.
pub struct Session<P: DerefMut> {
    /// `None` once it went back to the pool.
    conn: Option<P>,
    discard: Discard<P>,
    /// The body has not come to its end.
    running: bool,
    mode: Mode,
    condition: Arc<Condition>,
}

impl<P> Session<P>
where
    P: DerefMut,
    P::Target: Commit,
{
    /// Of a connection from a pool.
    pub(super) fn new(conn: P, discard: Discard<P>, mode: Mode, condition: Arc<Condition>) -> Self {
        Self { conn: Some(conn), discard, running: true, mode, condition }
    }

    /// The connection. An error only once it is gone, which the macros do not let happen.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] after the connection was given back.
    pub fn conn(&mut self) -> Result<&mut P::Target, DbError> {
        match &mut self.conn {
            Some(conn) => Ok(&mut **conn),
            None => Err(DbError::unavailable("connection given back")),
        }
    }

    /// Commits a success, rolls back a failure, and says whether to retry.
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
        // A connection that cannot even roll back is unusable, too; `drop` closes it.
        if !spoiled && self.rollback().await.is_ok() {
            self.give_back();
        }
        let pause = match cause {
            // A commit whose answer was lost is not tried again: it may have happened. What was lost before went with
            // its connection.
            Some(cause) if committing && cause.is_lost() => None,
            // No other server lets the body of a read write.
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

    /// Whether it began one that it must end.
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
