//! Readers that act on every event once: up to where each has read is stored with what it did.

use std::{future::Future, sync::Arc, time::Duration};

use souk_common::error::chain;

use super::{DeadLetters, Events, Log, letters::Hopeless, postgres, sqlite};
use crate::db::{self, DbError};

/// Up to where a reader has read the log of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The reader's name, for example `webhooks`.
    pub reader: &'static str,
    /// The service whose log it is.
    pub source: &'static str,
    /// The position of the last event that it acted on.
    pub position: i64,
    /// Whether it is that of a dead letter, which is to be acted on beside the log.
    pub(super) is_letter: bool,
}

/// Why a reader does not get on. It tries again: for ever where something is away, for a while where it is an event.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// What it wanted to do could not be done.
    #[error("{0}")]
    Other(String),
    /// It is one event that it cannot act on, however often it tries.
    #[error("the event at position {position}: {why}")]
    Event {
        /// Where the event is.
        position: i64,
        /// What is wrong with it.
        why: String,
    },
}

/// Someone who acts on every event once, in order.
pub trait Reader: Send + Sync + 'static {
    /// Its name, for example `webhooks`.
    fn name(&self) -> &'static str;

    /// Whether a reader that is new begins with the oldest event that is kept, and not with what comes from now on.
    fn begins_with_the_oldest(&self) -> bool {
        false
    }

    /// How long an event is tried that it cannot act on, until it is set aside with all that follows of its subject.
    /// Long enough for a newer copy of the service to come, which may be able to.
    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Acts on events, which follow each other from right after the seat, and moves the seat behind the last of them.
    ///
    /// What is done in the database happens in the same transaction as [`advance`](postgres::advance): if that says
    /// that the seat is elsewhere by now, somebody else has acted on these events, and nothing must be done. What is
    /// done elsewhere must bear being done twice.
    fn act(&self, seat: Seat, events: &Events) -> impl Future<Output = Result<(), Stuck>> + Send;
}

/// The longest pause between two tries of a reader that does not get on: soon after what it needs is back, it goes on.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Log {
    /// Lets a reader act on every event of the log from its seat on, until the log stops. Several copies may do so at a time: each event is acted on once.
    pub async fn serve<R: Reader>(self, reader: Arc<R>) {
        let mut growth = self.growth();
        let letters = DeadLetters::of(&self);
        letters.begin(reader.name());
        let (mut failures, mut hopeless) = (0, None);
        while !self.stop().is_cancelled() {
            growth.mark_unchanged();
            let pause = match self.turn(&*reader, &letters, &mut hopeless).await {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => None,
                Err(stuck) => {
                    failures += 1;
                    let pause = Duration::from_millis(100 << failures.min(9)).min(MAX_PAUSE);
                    tracing::warn!(
                        reader = reader.name(),
                        error = chain(&stuck),
                        ?pause,
                        "a reader of events does not get on"
                    );
                    Some(pause)
                }
            };
            tokio::select! {
                () = self.stop().cancelled() => {}
                grown = growth.changed(), if pause.is_none() => if grown.is_err() { return },
                () = tokio::time::sleep(pause.unwrap_or(MAX_PAUSE)) => {}
            }
        }
    }

    /// Lets a reader act once. `false` where there was nothing to act on.
    async fn turn<R: Reader>(
        &self,
        reader: &R,
        letters: &DeadLetters,
        hopeless: &mut Option<Hopeless>,
    ) -> Result<bool, Stuck> {
        let seat = self.seat(reader.name(), reader.begins_with_the_oldest()).await?;
        // After the seat: letters that are written later move it, and then it is no one's to act on from here.
        let any = letters.any(seat).await?;
        if any && letters.act(reader, seat).await? {
            return Ok(true);
        }
        let mut events = self.after(seat.position).await?;
        if events.is_empty() {
            return Ok(false);
        }
        if any {
            let behind = letters.behind(seat, &events).await?;
            if behind.first() == Some(&true) {
                let run = behind.iter().take_while(|behind| **behind).count();
                events.truncate(run);
                letters.follow(seat, &events).await?;
                return Ok(true);
            }
            events.truncate(behind.iter().take_while(|behind| !**behind).count());
        }
        let (position, why) = match reader.act(seat, &events).await {
            Ok(()) => return Ok(true),
            Err(Stuck::Event { position, why }) => (position, why),
            Err(stuck) => return Err(stuck),
        };
        // What comes before it need not wait.
        let before: Events = events.iter().take_while(|event| event.position < position).cloned().collect();
        if !before.is_empty() {
            reader.act(seat, &before).await?;
            return Ok(true);
        }
        let tried = Hopeless::again(hopeless, position);
        match events.first().filter(|event| event.position == position) {
            Some(event) if tried.since.elapsed() >= reader.patience() => {
                letters.give_up(seat, event, &tried, &why).await?;
                Ok(true)
            }
            _ => Err(Stuck::Event { position, why }),
        }
    }

    /// A reader's seat. Where it has none, it gets one before the oldest event that is kept, or at the end of the log.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn seat(&self, reader: &'static str, from_the_oldest: bool) -> Result<Seat, DbError> {
        let source = self.source();
        let found = db::read!(self.db(), |conn, q| -> Result<_, DbError> { Ok(q::seat(conn, reader, source).await?) })?;
        let position = match found {
            Some(position) => position,
            None => {
                let begin = if from_the_oldest { self.oldest().await? - 1 } else { self.head() };
                db::write!(self.db(), |conn, q| -> Result<_, DbError> {
                    q::take_seat(conn, reader, source, begin).await?;
                    Ok(q::seat(conn, reader, source).await?.unwrap_or(begin))
                })?
            }
        };
        Ok(Seat { reader, source, position, is_letter: false })
    }

    /// Moves a seat behind the last of these events, for readers whose acts are not in this database.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn advance(&self, seat: Seat, events: &Events) -> Result<bool, DbError> {
        let Some(last) = events.last() else { return Ok(false) };
        db::write!(self.db(), |conn, q| -> Result<_, DbError> { Ok(q::advance(conn, seat, last.position).await?) })
    }
}
