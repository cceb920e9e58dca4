//! Dead letters: events that a reader cannot process, set aside so that it can continue.
//!
//! Later events of the same subject are set aside behind them, without a try, because a reader processes each subject's
//! events in order. An operator fixes the cause and requeues all events of a subject, or drops one. An unreachable
//! database or bus causes no dead letters: a reader waits until it is reachable again.

use std::{collections::HashSet, sync::Arc, time::Instant};

use chrono::{DateTime, SubsecRound, Utc};
use opentelemetry::{KeyValue, metrics::Counter};

use super::{Checkpoint, Event, Events, Log, Reader, Stuck, postgres, sqlite};
use crate::db::{self, DbError};

/// An event that a reader has set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The reader's name, for example `webhooks`.
    pub reader: String,
    /// The service whose log has, or had, the event.
    pub source: String,
    /// The event.
    pub event: Event,
    /// Number of tries; 0 if it was set aside only because it follows another dead letter of its subject.
    pub tries: i32,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// When it was first tried.
    pub first_tried: Option<DateTime<Utc>>,
    /// When it was last tried.
    pub last_tried: Option<DateTime<Utc>>,
    /// When it was set aside.
    pub set_aside: DateTime<Utc>,
    /// When an operator requeued it.
    pub requeued: Option<DateTime<Utc>>,
}

/// An event that keeps failing, as this replica has seen it.
#[derive(Debug, Clone)]
pub(super) struct Hopeless {
    position: i64,
    tries: i32,
    first: DateTime<Utc>,
    pub(super) since: Instant,
}

impl Hopeless {
    /// Counts another try.
    pub(super) fn again(known: &mut Option<Self>, position: i64) -> Self {
        let new = || Self { position, tries: 0, first: now(), since: Instant::now() };
        let mut tried = known.take().filter(|known| known.position == position).unwrap_or_else(new);
        tried.tries = tried.tries.saturating_add(1);
        known.insert(tried).clone()
    }
}

/// Selects dead letters of a source.
pub(crate) enum Which<'a> {
    /// A page: at most so many after the letter of this reader and position; from the first one if `None`.
    After(Option<&'a (String, i64)>, i64),
    /// A reader's dead letter at a position.
    One(&'a str, i64),
    /// A reader's first requeued dead letter.
    Requeued(&'a str),
}

/// The dead letters of a log's readers.
#[derive(Clone)]
pub struct DeadLetters {
    log: Log,
    counter: Counter<u64>,
}

impl DeadLetters {
    /// The dead letters of the readers of this log, in the log's database.
    #[must_use]
    pub fn of(log: &Log) -> Self {
        let counter = opentelemetry::global::meter("souk")
            .u64_counter("souk.event.dead_letters")
            .with_description("Events that a reader could not act on and set aside")
            .build();
        Self { log: log.clone(), counter }
    }

    /// Initialises the counter with 0: Prometheus sees no increase in a counter that begins at 1.
    pub(super) fn begin(&self, reader: &'static str) {
        self.counter.add(0, &[KeyValue::new("reader", reader)]);
    }

    /// The service that the log belongs to.
    pub(super) fn source(&self) -> &'static str {
        self.log.source()
    }

    /// A page of dead letters, sorted by reader and position, beginning after one of them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list(&self, after: Option<(String, i64)>, limit: i64) -> Result<Vec<DeadLetter>, DbError> {
        self.find(Which::After(after.as_ref(), limit)).await
    }

    /// Requeues a dead letter and all others of its subject, so that the reader processes them again, oldest first.
    /// Returns the dead letter; `None` if it does not exist.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn requeue(&self, reader: &str, position: i64) -> Result<Option<DeadLetter>, DbError> {
        let (source, one) = (self.log.source(), Which::One(reader, position));
        let found = db::write!(self.log.db(), |conn, q| -> Result<_, DbError> {
            q::hold(conn, reader, source).await?;
            let Some(mut letter) = q::dead_letters(conn, source, &one).await?.pop() else { return Ok(None) };
            let at = now();
            q::requeue(conn, (reader, source, &letter.event.subject), Some(at)).await?;
            letter.requeued = Some(at);
            Ok(Some(letter))
        })?;
        self.log.wake();
        Ok(found)
    }

    /// Deletes a dead letter: its reader never processes it. Returns `false` if it does not exist.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn discard(&self, reader: &str, position: i64) -> Result<bool, DbError> {
        let source = self.log.source();
        db::write!(self.log.db(), |conn, q| -> Result<_, DbError> {
            q::hold(conn, reader, source).await?;
            Ok(q::remove(conn, reader, source, position).await?)
        })
    }

    async fn find(&self, which: Which<'_>) -> Result<Vec<DeadLetter>, DbError> {
        let source = self.log.source();
        db::read!(self.log.db(), |conn, q| -> Result<_, DbError> { Ok(q::dead_letters(conn, source, &which).await?) })
    }

    /// True if a reader has any dead letters.
    pub(super) async fn any(&self, checkpoint: Checkpoint) -> Result<bool, DbError> {
        db::read!(self.log.db(), |conn, q| -> Result<_, DbError> {
            Ok(q::has_letters(conn, checkpoint.reader, checkpoint.source).await?)
        })
    }

    /// Lets a reader process its first requeued dead letter. Returns `false` if there is none.
    pub(super) async fn act<R: Reader>(&self, reader: &R, checkpoint: Checkpoint) -> Result<bool, Stuck> {
        let Some(letter) = self.find(Which::Requeued(checkpoint.reader)).await?.pop() else { return Ok(false) };
        let place = Checkpoint { position: letter.event.position - 1, is_letter: true, ..checkpoint };
        let why = match reader.act(place, &vec![Arc::new(letter.event.clone())]).await {
            Ok(()) => return Ok(true),
            Err(Stuck::Event { why, .. }) => why,
            Err(stuck) => return Err(stuck),
        };
        self.log_one(&letter.event, checkpoint, &why);
        let subject = (checkpoint.reader, checkpoint.source, &*letter.event.subject);
        db::write!(self.log.db(), |conn, q| -> Result<_, DbError> {
            q::hold(conn, checkpoint.reader, checkpoint.source).await?;
            q::tried_again(conn, &letter, &why, now()).await?;
            Ok(q::requeue(conn, subject, None).await?)
        })?;
        Ok(true)
    }

    /// For each of these events: true if a dead letter of its subject precedes it.
    pub(super) async fn behind(&self, checkpoint: Checkpoint, events: &Events) -> Result<Vec<bool>, DbError> {
        let subjects = subjects(events);
        let lying = db::read!(self.log.db(), |conn, q| -> Result<_, DbError> {
            Ok(q::lying(conn, checkpoint.reader, checkpoint.source, &subjects).await?)
        })?;
        let lying: HashSet<&str> = lying.iter().map(|(subject, _)| &**subject).collect();
        Ok(events.iter().map(|event| lying.contains(&*event.subject)).collect())
    }

    /// Sets aside the event that is next for a reader.
    pub(super) async fn give_up(
        &self,
        checkpoint: Checkpoint,
        event: &Arc<Event>,
        tried: &Hopeless,
        why: &str,
    ) -> Result<(), DbError> {
        let letter = DeadLetter {
            tries: tried.tries,
            last_error: Some(why.to_owned()),
            first_tried: Some(tried.first),
            last_tried: Some(now()),
            ..set_aside(checkpoint, event)
        };
        let done = db::write!(self.log.db(), |conn, q| -> Result<_, DbError> {
            if !q::advance(conn, checkpoint, event.position).await? {
                return Ok(false);
            }
            q::set_aside(conn, &letter).await?;
            Ok(true)
        })?;
        if done {
            self.log_one(event, checkpoint, why);
            self.counter.add(1, &[KeyValue::new("reader", checkpoint.reader)]);
        }
        Ok(())
    }

    /// Sets aside the next events of a reader if dead letters of their subjects precede them.
    pub(super) async fn follow(&self, checkpoint: Checkpoint, events: &Events) -> Result<(), DbError> {
        let Some(last) = events.last() else { return Ok(()) };
        let subjects = subjects(events);
        let done = db::write!(self.log.db(), |conn, q| -> Result<_, DbError> {
            // Earlier letters may have been processed in the meantime, but none from here on: the checkpoint is locked.
            let held = q::hold(conn, checkpoint.reader, checkpoint.source).await?;
            let lying = q::lying(conn, checkpoint.reader, checkpoint.source, &subjects).await?;
            let before = |event: &Event| lying.iter().find(|(subject, _)| *subject == event.subject);
            if held != Some(checkpoint.position) || !events.iter().all(|event| before(event).is_some()) {
                return Ok(false);
            }
            for event in events {
                let requeued = before(event).and_then(|(_, requeued)| *requeued);
                q::set_aside(conn, &DeadLetter { requeued, ..set_aside(checkpoint, event) }).await?;
            }
            Ok(q::advance(conn, checkpoint, last.position).await?)
        })?;
        if done {
            self.counter.add(events.len() as u64, &[KeyValue::new("reader", checkpoint.reader)]);
        }
        Ok(())
    }

    fn log_one(&self, event: &Event, checkpoint: Checkpoint, why: &str) {
        tracing::error!(
            reader = checkpoint.reader,
            position = event.position,
            event = %event.id,
            subject = event.subject,
            error = why,
            "event set aside as a dead letter, with later events of its subject"
        );
    }
}

/// A dead letter that was never tried.
fn set_aside(checkpoint: Checkpoint, event: &Event) -> DeadLetter {
    DeadLetter {
        reader: checkpoint.reader.to_owned(),
        source: checkpoint.source.to_owned(),
        event: event.clone(),
        tries: 0,
        last_error: None,
        first_tried: None,
        last_tried: None,
        set_aside: now(),
        requeued: None,
    }
}

/// The distinct subjects of events.
fn subjects(events: &Events) -> Vec<&str> {
    let subjects: HashSet<&str> = events.iter().map(|event| &*event.subject).collect();
    subjects.into_iter().collect()
}

/// The current time, truncated to the microsecond, as it is stored.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
