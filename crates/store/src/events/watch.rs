//! Streams over a log, for clients that follow it.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use futures::{Stream, stream};
use souk_common::{
    error::{Problem, Reason},
    ids::UserId,
};
use tokio::{sync::watch::Receiver, time::Instant};
use tonic::Status;

use super::{
    Event, Log,
    cursor::{Mark, Place, START},
    dispatch::Subscription,
    log::PAGE_OF_OWNER,
};
use crate::db::DbError;

/// Why a log cannot be followed from a position. Customers see the texts, so they contain no position.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The text is not a valid cursor.
    #[error(
        "must be the last answer's `cursor`, to go on after it; `start`, to begin with the oldest event that is kept; or \
         empty, to begin with what comes"
    )]
    Malformed,
    /// The cursor belongs to another log.
    #[error("the cursor is of another log: of another service, or of a database that was recreated since")]
    OtherLog,
    /// The log had reached this position once, and no longer has: it was restored from a backup.
    #[error("the cursor is of events that the log no longer has: its database was restored from a backup since")]
    Restored,
    /// The events after the cursor are no longer stored.
    #[error("the cursor is too old: what came after it is no longer kept")]
    Expired,
    /// The events after the position are no longer stored.
    #[error("is too low: events are kept after position {oldest}")]
    Forgotten {
        /// The lowest position after which a stream can begin.
        oldest: i64,
    },
    /// The log has not reached this position yet.
    #[error("is beyond the end of the log, which is at position {head}")]
    Beyond {
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
            WatchError::Malformed => Self::invalid("cursor", text),
            WatchError::OtherLog | WatchError::Restored | WatchError::Expired => Self::new(Reason::CursorExpired, text)
                .field(
                    "cursor",
                    "must be newer, `start` to begin with the oldest event, or empty to begin with what comes",
                ),
            WatchError::Forgotten { .. } => {
                Self::new(Reason::CursorExpired, format!("after_position {text}")).field("after_position", text)
            }
            WatchError::Beyond { .. } => Self::invalid("after_position", text),
            WatchError::Db(error) => error.into(),
        }
    }
}

/// The start of a stream.
#[derive(Debug, Clone, Copy)]
pub enum Begin<'a> {
    /// As the client requests: after its cursor; `start`: with the oldest stored event; empty: with new events.
    Cursor(&'a str),
    /// After a position, for callers that may know positions.
    After(i64),
}

/// One item of a stream: an event with its cursor, or only a cursor.
#[derive(Debug, Clone)]
pub struct Step<T> {
    /// The cursor from which a client can resume.
    pub cursor: String,
    /// The selected part of the event. `None` if the item is only a cursor: the first item, and one now and then.
    pub found: Option<T>,
}

/// The longest time without a message on a stream. An idle stream sends its cursor, so that the client's cursor stays
/// fresh.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

impl Log {
    /// Follows the log until it stops, and skips events from which `pick` selects nothing. If an `owner` is given, only
    /// the owner's events are read; other events then cost nothing. The first step has the cursor of the stream's
    /// start.
    ///
    /// # Errors
    /// If the stream cannot begin at the requested position.
    pub async fn watch<T, P>(
        &self,
        begin: Begin<'_>,
        owner: Option<UserId>,
        pick: P,
    ) -> Result<impl Stream<Item = Result<Step<T>, Status>> + Send + use<T, P>, WatchError>
    where
        P: Fn(Arc<Event>) -> Option<T> + Send + 'static,
        T: Send,
    {
        // Subscribes before the start is known, so that no event between the two is missed.
        let mut source = match owner {
            Some(owner) => {
                let (subscription, reached) = Subscription::new(self, owner);
                Source::Own { subscription, behind: Some(reached) }
            }
            None => Source::All(self.growth()),
        };
        let place = self.begin(begin).await?;
        if let Source::Own { behind, .. } = &mut source {
            *behind = behind.filter(|reached| *reached > place.position);
        }
        let follower = Follower { log: self.clone(), source, pick, place, page: VecDeque::new(), told: None };
        Ok(stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.step().await {
                Ok(step) => Some((Ok(step), Some(follower))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    async fn begin(&self, begin: Begin<'_>) -> Result<Place, WatchError> {
        let cursor = match begin {
            Begin::After(position) => return self.place_after(position).await,
            Begin::Cursor(cursor) => cursor,
        };
        if cursor.is_empty() {
            // Events that were committed before get their positions now, and are not part of the stream.
            self.look().await?;
            return Ok(self.place_at(self.head()).await?);
        }
        if cursor == START {
            return Ok(self.place_at(self.oldest().await? - 1).await?);
        }
        let place = self.cursors().read(cursor)?;
        if place.position > self.known_to(place.position).await? {
            return Err(WatchError::Restored);
        }
        if place.position + 1 < self.oldest().await? {
            return Err(WatchError::Expired);
        }
        match self.mark_at(place.position).await? {
            Some(mark) if mark != place.mark => Err(WatchError::Restored),
            // The same event, or one that has just been deleted.
            _ => Ok(place),
        }
    }

    async fn place_after(&self, position: i64) -> Result<Place, WatchError> {
        let head = self.known_to(position).await?;
        if position > head {
            return Err(WatchError::Beyond { head });
        }
        let oldest = self.oldest().await?;
        if position + 1 < oldest {
            return Err(WatchError::Forgotten { oldest: oldest - 1 });
        }
        Ok(self.place_at(position).await?)
    }

    /// The end of the log. Another replica of the service may have assigned a position that this one has not seen yet.
    async fn known_to(&self, position: i64) -> Result<i64, DbError> {
        if position > self.head() {
            self.look().await?;
        }
        Ok(self.head())
    }
}

/// The source of a stream's events.
enum Source {
    /// The log, read whenever it has grown.
    All(Receiver<i64>),
    /// The dispatch of one owner's events.
    Own {
        subscription: Subscription,
        /// Events up to this position were dispatched before, and must be read from the log.
        behind: Option<i64>,
    },
}

struct Follower<P> {
    log: Log,
    source: Source,
    pick: P,
    place: Place,
    page: VecDeque<Arc<Event>>,
    /// When the client last got a cursor.
    told: Option<Instant>,
}

impl<P> Follower<P> {
    async fn step<T>(&mut self) -> Result<Step<T>, Status>
    where
        P: Fn(Arc<Event>) -> Option<T>,
    {
        let Some(told) = self.told.replace(Instant::now()) else { return self.here(None) };
        loop {
            while let Some(event) = self.page.pop_front() {
                self.place = Place { position: event.position, mark: Mark::of(event.id) };
                if let found @ Some(_) = (self.pick)(event) {
                    return self.here(found);
                }
            }
            let more = tokio::select! {
                biased;
                () = self.log.stop().cancelled() => return Err(ending()),
                more = self.source.more(&self.log, self.place.position) => Some(more?),
                () = tokio::time::sleep_until(told + SIGN_OF_LIFE) => None,
            };
            let Some(more) = more else {
                if let Some(position) = self.source.passed_over().filter(|passed| *passed > self.place.position) {
                    let log = self.log.clone();
                    self.place = apart(async move { log.place_at(position).await }).await?;
                }
                return self.here(None);
            };
            self.page = more;
        }
    }

    fn here<T>(&self, found: Option<T>) -> Result<Step<T>, Status> {
        Ok(Step { cursor: self.log.cursors().write(self.place)?, found })
    }
}

impl Source {
    /// Waits for events after a position. This future may be dropped at any time.
    async fn more(&mut self, log: &Log, position: i64) -> Result<VecDeque<Arc<Event>>, Status> {
        match self {
            Self::All(growth) => loop {
                growth.mark_unchanged();
                let log = log.clone();
                let page = apart(async move { log.after(position).await }).await?;
                if !page.is_empty() {
                    return Ok(page.into());
                }
                growth.changed().await.map_err(|_| ending())?;
            },
            Self::Own { subscription, behind } => {
                if behind.is_some() {
                    let (log, owner) = (log.clone(), subscription.owner());
                    let page = apart(async move { log.after_of(position, owner).await }).await?;
                    if (page.len() as i64) < PAGE_OF_OWNER {
                        *behind = None;
                    }
                    if !page.is_empty() {
                        return Ok(page.into());
                    }
                }
                loop {
                    match subscription.next().await {
                        Some(event) if event.position > position => return Ok(VecDeque::from([event])),
                        // The event was among those that were read.
                        Some(_) => {}
                        None => {
                            *behind = Some(subscription.renew());
                            return Ok(VecDeque::new());
                        }
                    }
                }
            }
        }
    }

    /// The position up to which the stream has no more events to send.
    fn passed_over(&self) -> Option<i64> {
        match self {
            Self::Own { subscription, behind: None } => subscription.taken_up_to(),
            _ => None,
        }
    }
}

/// Runs a read in a task of its own. If a client does not read, its stream is no longer polled; a read that stops
/// halfway would hold the log's lock or a connection.
async fn apart<T: Send + 'static>(
    reading: impl Future<Output = Result<T, DbError>> + Send + 'static,
) -> Result<T, Problem> {
    let read = tokio::spawn(reading).await;
    Ok(read.map_err(|failed| Problem::internal().caused_by(failed))??)
}

/// The error of a stream when the service stops. A client that reconnects reaches another replica, or this one again.
fn ending() -> Status {
    Problem::new(Reason::ServiceUnavailable, "the service is stopping: resume after the last cursor")
        .retry_after(Duration::from_secs(1))
        .into()
}
