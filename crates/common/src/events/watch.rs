//! Streams over a log, for clients that follow it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::{sync::watch::Receiver, time::Instant};
use tonic::Status;

use super::{Event, Events, Log};
use crate::{
    db::DbError,
    error::{Problem, Reason},
};

/// Why a log cannot be followed from a position.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// What came after the position is no longer kept.
    #[error("the cursor is too old: what came after it is kept from {oldest} on")]
    Expired {
        /// The oldest position that can be gone on after.
        oldest: i64,
    },
    /// There is no such position yet.
    #[error("the cursor is not one of this log, which ends at {head}")]
    Unknown {
        /// The last position.
        head: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<WatchError> for Problem {
    fn from(error: WatchError) -> Self {
        let text = error.to_string();
        match error {
            WatchError::Expired { .. } => Self::new(Reason::CursorExpired, text)
                .field("cursor", "must be newer, or empty to begin with what comes"),
            WatchError::Unknown { .. } => Self::invalid("cursor", text),
            WatchError::Db(error) => error.into(),
        }
    }
}

/// How far a stream has come.
#[derive(Debug, Clone)]
pub struct Step<T> {
    /// The position to go on after.
    pub position: i64,
    /// What was picked there. `None`: nothing for this stream; its first step is so, and one now and then.
    pub found: Option<T>,
}

/// A stream with nothing to tell says at least so often how far it has come, so that its client's cursor stays young.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

impl Log {
    /// Follows the log from after a position (a cursor's text; empty: from now on) until it stops, passing over
    /// events of which nothing is picked. The first step says where the stream begins.
    ///
    /// # Errors
    /// Where there is nothing to go on from.
    pub async fn watch<T, P>(
        &self,
        cursor: &str,
        pick: P,
    ) -> Result<impl Stream<Item = Result<Step<T>, Status>> + Send + use<T, P>, WatchError>
    where
        P: Fn(Arc<Event>) -> Option<T> + Send + 'static,
        T: Send,
    {
        let growth = self.growth();
        let begin = if cursor.is_empty() {
            // What was committed before has its position then, and is not told of.
            self.look().await?;
            self.head()
        } else {
            self.place_of(cursor).await?
        };
        let follower = Follower { log: self.clone(), growth, pick, position: begin, page: VecDeque::new(), told: None };
        Ok(stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.step().await {
                Ok(step) => Some((Ok(step), Some(follower))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    async fn place_of(&self, cursor: &str) -> Result<i64, WatchError> {
        let position = cursor.parse::<i64>().unwrap_or(i64::MAX);
        if position > self.head() {
            // Another copy of the service may have told of what this one has not seen yet.
            self.look().await?;
        }
        let head = self.head();
        if !(0..=head).contains(&position) {
            return Err(WatchError::Unknown { head });
        }
        let oldest = self.oldest().await?;
        if position + 1 < oldest {
            return Err(WatchError::Expired { oldest: oldest - 1 });
        }
        Ok(position)
    }
}

struct Follower<P> {
    log: Log,
    growth: Receiver<i64>,
    pick: P,
    position: i64,
    page: VecDeque<Arc<Event>>,
    /// When the client was last told a position.
    told: Option<Instant>,
}

impl<P> Follower<P> {
    async fn step<T>(&mut self) -> Result<Step<T>, Status>
    where
        P: Fn(Arc<Event>) -> Option<T>,
    {
        let Some(told) = self.told.replace(Instant::now()) else {
            return Ok(Step { position: self.position, found: None });
        };
        loop {
            while let Some(event) = self.page.pop_front() {
                self.position = event.position;
                if let found @ Some(_) = (self.pick)(event) {
                    return Ok(Step { position: self.position, found });
                }
            }
            self.growth.mark_unchanged();
            self.page = read(self.log.clone(), self.position).await?.into();
            if self.page.is_empty() {
                tokio::select! {
                    () = self.log.stop().cancelled() => return Err(ending()),
                    grown = self.growth.changed() => grown.map_err(|_| ending())?,
                    () = tokio::time::sleep_until(told + SIGN_OF_LIFE) => {
                        return Ok(Step { position: self.position, found: None });
                    }
                }
            } else if self.log.stop().is_cancelled() {
                return Err(ending());
            }
        }
    }
}

/// The events after a position, read in a task of its own: where a client does not read, nobody polls its stream any
/// more, and that must not hold the log's lock or a connection then.
async fn read(log: Log, position: i64) -> Result<Events, Problem> {
    let read = tokio::spawn(async move { log.after(position).await }).await;
    Ok(read.map_err(|failed| Problem::internal().caused_by(failed))??)
}

/// A client that comes back finds another copy, or this one again.
fn ending() -> Status {
    Problem::new(Reason::ServiceUnavailable, "the service is stopping: go on after the last cursor")
        .retry_after(Duration::from_secs(1))
        .into()
}
