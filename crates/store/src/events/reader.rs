//! Readers that process every event once. A reader's checkpoint is stored together with its effects.

use std::{future::Future, sync::Arc, time::Duration};

use souk_common::error::chain;

use super::{DeadLetters, Events, Log, letters::Hopeless, postgres, sqlite};
use crate::db::{self, DbError};

/// The position up to which a reader has processed the log of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The reader's name, for example `webhooks`.
    pub reader: &'static str,
    /// The service that the log belongs to.
    pub source: &'static str,
    /// The position of the last event that it processed.
    pub position: i64,
    /// True if it represents a dead letter, which is processed apart from the log.
    pub(super) is_letter: bool,
}

/// Why a reader could not process events. It retries: without end if something is unreachable, for a limited time if an
/// event cannot be processed.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The effect failed.
    #[error("{0}")]
    Other(String),
    /// One event fails at every try.
    #[error("the event at position {position}: {why}")]
    Event {
        /// The position of the event.
        position: i64,
        /// Why it fails.
        why: String,
    },
}

/// A consumer: processes every event once, in order.
pub trait Reader: Send + Sync + 'static {
    /// Its name, for example `webhooks`.
    fn name(&self) -> &'static str;

    /// True if a new reader begins with the oldest stored event. If false, it begins with new events.
    fn begins_with_the_oldest(&self) -> bool {
        false
    }

    /// How long a failing event is tried before it is set aside with all later events of its subject. Long enough for a
    /// newer replica of the service to start, which may be able to process it.
    fn give_up_after(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Processes consecutive events, which begin right after the checkpoint, and moves the checkpoint to the last of
    /// them.
    ///
    /// Effects in the database must be in the same transaction as [`advance`](postgres::advance). If `advance` returns
    /// `false`, the checkpoint has moved: another replica has processed these events, and nothing must be done. Effects
    /// elsewhere must be idempotent.
    fn act(&self, checkpoint: Checkpoint, events: &Events) -> impl Future<Output = Result<(), Stuck>> + Send;
}

/// The longest pause between two tries of a reader that fails. A reader continues within this time after a dependency
/// has recovered.
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Log {
    /// Lets a reader process every event of the log from its checkpoint on, until the log stops. Several replicas may
    /// do so at the same time: each event is processed once.
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
                        "event consumer failed; will retry"
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

    /// Runs one turn of a reader. Returns `false` if there was nothing to process.
    async fn turn<R: Reader>(
        &self,
        reader: &R,
        letters: &DeadLetters,
        hopeless: &mut Option<Hopeless>,
    ) -> Result<bool, Stuck> {
        let checkpoint = self.checkpoint(reader.name(), reader.begins_with_the_oldest()).await?;
        // Read after the checkpoint: if a letter is set aside later, that moves the checkpoint, and this turn's
        // `advance` fails.
        let any = letters.any(checkpoint).await?;
        if any && letters.act(reader, checkpoint).await? {
            return Ok(true);
        }
        let mut events = self.after(checkpoint.position).await?;
        if events.is_empty() {
            return Ok(false);
        }
        if any {
            let behind = letters.behind(checkpoint, &events).await?;
            if behind.first() == Some(&true) {
                let run = behind.iter().take_while(|behind| **behind).count();
                events.truncate(run);
                letters.follow(checkpoint, &events).await?;
                return Ok(true);
            }
            events.truncate(behind.iter().take_while(|behind| !**behind).count());
        }
        let (position, why) = match reader.act(checkpoint, &events).await {
            Ok(()) => return Ok(true),
            Err(Stuck::Event { position, why }) => (position, why),
            Err(stuck) => return Err(stuck),
        };
        // The events before the failing one need not wait.
        let before: Events = events.iter().take_while(|event| event.position < position).cloned().collect();
        if !before.is_empty() {
            reader.act(checkpoint, &before).await?;
            return Ok(true);
        }
        let tried = Hopeless::again(hopeless, position);
        match events.first().filter(|event| event.position == position) {
            Some(event) if tried.since.elapsed() >= reader.give_up_after() => {
                letters.give_up(checkpoint, event, &tried, &why).await?;
                Ok(true)
            }
            _ => Err(Stuck::Event { position, why }),
        }
    }

    /// A reader's checkpoint. If it has none, one is created: before the oldest stored event, or at the end of the log.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn checkpoint(&self, reader: &'static str, from_the_oldest: bool) -> Result<Checkpoint, DbError> {
        let source = self.source();
        let found =
            db::read!(self.db(), |conn, q| -> Result<_, DbError> { Ok(q::checkpoint(conn, reader, source).await?) })?;
        let position = match found {
            Some(position) => position,
            None => {
                let begin = if from_the_oldest { self.oldest().await? - 1 } else { self.head() };
                db::write!(self.db(), |conn, q| -> Result<_, DbError> {
                    q::take_seat(conn, reader, source, begin).await?;
                    Ok(q::checkpoint(conn, reader, source).await?.unwrap_or(begin))
                })?
            }
        };
        Ok(Checkpoint { reader, source, position, is_letter: false })
    }

    /// Moves a checkpoint to the last of these events, for readers whose effects are not in this database.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn advance(&self, checkpoint: Checkpoint, events: &Events) -> Result<bool, DbError> {
        let Some(last) = events.last() else { return Ok(false) };
        db::write!(self.db(), |conn, q| -> Result<_, DbError> {
            Ok(q::advance(conn, checkpoint, last.position).await?)
        })
    }
}
