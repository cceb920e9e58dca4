//! A service's log: assigns positions to committed events, and serves them to readers.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use souk_common::{
    config::{Checks, ConfigError},
    error::chain,
    ids::UserId,
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Event, Events,
    cursor::{Cursors, Mark, Place},
    dispatch::Dispatch,
    postgres, sqlite,
};
use crate::db::{self, Db, DbError};

/// Declares the tables with an engine's own types.
macro_rules! tables {
    ($id:ident, $time:ident) => {
        diesel::table! {
            use diesel::sql_types::*;
            events (number) {
                // Only in PostgreSQL: in SQLite the position is the key.
                number -> BigInt,
                position -> Nullable<BigInt>,
                id -> $id,
                kind -> Text,
                subject -> Text,
                owner_id -> Nullable<$id>,
                data_type -> Text,
                data -> Binary,
                created_at -> $time,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            // The table has one row.
            event_epoch (epoch) {
                epoch -> Binary,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            event_readers (reader, source) {
                reader -> Text,
                source -> Text,
                position -> BigInt,
            }
        }
        diesel::table! {
            use diesel::sql_types::*;
            event_dead_letters (reader, source, position) {
                reader -> Text,
                source -> Text,
                position -> BigInt,
                id -> $id,
                kind -> Text,
                subject -> Text,
                data_type -> Text,
                data -> Binary,
                created_at -> $time,
                tries -> Integer,
                last_error -> Nullable<Text>,
                first_tried_at -> Nullable<$time>,
                last_tried_at -> Nullable<$time>,
                set_aside_at -> $time,
                requeued_at -> Nullable<$time>,
            }
        }
    };
}
pub(super) use tables;

/// The section `[<service>.events]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long events are stored, for readers that reconnect and for replay.
    #[serde(with = "souk_common::config::duration")]
    pub retention: Duration,
    /// The interval at which the log looks for events that other replicas of the service have written.
    #[serde(with = "souk_common::config::duration")]
    pub poll: Duration,
}

impl Settings {
    /// Checks the settings of `events` in a service's section.
    ///
    /// # Errors
    /// If a setting is wrong: names it, and says what would be right.
    pub fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        checks.require(self.retention >= Duration::from_secs(3600), "events.retention", "must be 1h or more")?;
        let poll = Duration::from_millis(10)..=Duration::from_secs(60);
        checks.require(poll.contains(&self.poll), "events.poll", "must be from 10ms to 1m")
    }
}

/// Number of events read at a time.
pub(super) const PAGE: i64 = 500;
/// Number of events of one owner read at a time. Each stream that catches up holds this many.
pub(super) const PAGE_OF_OWNER: i64 = 50;
/// Number of events placed by one transaction.
const PLACED_AT_ONCE: i64 = 5_000;
/// Events that are committed within this time are placed together.
const GATHER: Duration = Duration::from_millis(5);
/// The least time between two rounds of placing, so that the work of placing stays bounded when many events are
/// written.
const PACE: Duration = Duration::from_millis(40);
/// The newest events are cached in memory, up to this number and this many bytes, because most readers are near the
/// end.
const RECENT_EVENTS: usize = 2_048;
const RECENT_BYTES: usize = 8 << 20;

/// The log of one service. A clone is another handle.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    db: Db,
    source: &'static str,
    settings: Settings,
    notifier: Notifier,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The last assigned position that is known here.
    head: watch::Sender<i64>,
    recent: Mutex<Recent>,
    cursors: Cursors,
    dispatch: Dispatch,
}

/// Notifies the log that events were committed, so that they get their positions at once. Clones notify the same log.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Arc<Notify>);

impl Notifier {
    /// Reports that events were just committed.
    pub fn notify(&self) {
        self.0.notify_one();
    }
}

/// The newest events, without a gap.
#[derive(Default)]
struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Recent {
    /// The events after a position; `None` if they are not all cached.
    fn after(&self, position: i64) -> Option<Events> {
        let first = self.events.front()?.position;
        let skip = usize::try_from(position.checked_add(1)?.checked_sub(first)?).ok()?;
        let page = self.events.iter().skip(skip).take(PAGE as usize).cloned().collect::<Vec<_>>();
        (!page.is_empty()).then_some(page)
    }

    /// The event at a position; `None` if it is not cached.
    fn at(&self, position: i64) -> Option<&Event> {
        let first = self.events.front()?.position;
        let nth = usize::try_from(position.checked_sub(first)?).ok()?;
        self.events.get(nth).map(|event| &**event)
    }

    fn last(&self) -> Option<i64> {
        self.events.back().map(|event| event.position)
    }

    fn keep(&mut self, page: &[Arc<Event>]) {
        if self.last().is_some_and(|last| page.first().is_some_and(|first| first.position != last + 1)) {
            *self = Self::default();
        }
        self.bytes += page.iter().map(|event| event.data.len()).sum::<usize>();
        self.events.extend(page.iter().cloned());
        while self.events.len() > RECENT_EVENTS || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.data.len();
        }
    }
}

impl Log {
    /// Opens the log of a service (`order`) in its database, whose migrations must have run, until `stop`. From now on
    /// the log assigns positions to committed events. Writers notify it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open(
        db: &Db,
        source: &'static str,
        settings: Settings,
        notifier: Notifier,
        stop: CancellationToken,
    ) -> Result<Self, DbError> {
        let epoch = db::read!(db, |conn, q| -> Result<_, DbError> { Ok(q::epoch(conn).await?) })?;
        let log = Self(Arc::new(Inner {
            db: db.clone(),
            source,
            settings,
            notifier,
            stop,
            tasks: TaskTracker::new(),
            head: watch::Sender::new(0),
            recent: Mutex::default(),
            cursors: Cursors::new(source, &epoch),
            dispatch: Dispatch::default(),
        }));
        log.look().await?;
        log.0.dispatch.begin(log.head());
        log.spawn(log.clone().place());
        log.spawn(log.clone().dispatch());
        Ok(log)
    }

    /// Spawns a task that reads the log until the log stops.
    pub(super) fn spawn(&self, reading: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.0.tasks.spawn(reading)
    }

    /// After the stop, waits until all tasks that place or publish events have ended.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The service that the log belongs to.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.0.source
    }

    /// How long events are stored.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.0.settings.retention
    }

    /// The last assigned position, as far as this replica knows.
    #[must_use]
    pub fn head(&self) -> i64 {
        *self.0.head.borrow()
    }

    /// Assigns positions to committed events, until the log stops.
    async fn place(self) {
        loop {
            let looked = Instant::now();
            let placed = self.look().await.unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "cannot look for new events; will retry");
                false
            });
            let pace = if placed { PACE } else { GATHER };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = self.0.notifier.0.notified() => {
                    tokio::time::sleep(GATHER.max(pace.saturating_sub(looked.elapsed()))).await;
                }
                () = tokio::time::sleep(self.0.settings.poll) => {}
            }
        }
    }

    /// Places waiting events, and finds the end of the log. Returns true if any event was placed.
    pub(super) async fn look(&self) -> Result<bool, DbError> {
        let db = &self.0.db;
        if !db::read!(db, |conn, q| -> Result<_, DbError> { Ok(q::is_any_unplaced(conn).await?) })? {
            self.ends_at(db::read!(db, |conn, q| -> Result<_, DbError> { Ok(q::head(conn).await?) })?);
            return Ok(false);
        }
        loop {
            let (head, placed) =
                db::write!(db, |conn, q| -> Result<_, DbError> { Ok(q::place(conn, PLACED_AT_ONCE).await?) })?;
            self.ends_at(head);
            if placed < PLACED_AT_ONCE {
                return Ok(true);
            }
        }
    }

    fn ends_at(&self, head: i64) {
        self.0.head.send_if_modified(|known| std::mem::replace(known, head) != head);
    }

    /// A receiver that is notified when the log has grown.
    pub(super) fn growth(&self) -> watch::Receiver<i64> {
        self.0.head.subscribe()
    }

    /// The events after a position, in order; one page at most. Empty at the end of the log.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn after(&self, position: i64) -> Result<Events, DbError> {
        // A caller that comes while another one reads waits here, and then finds what the other one has read in the
        // cache.
        let mut recent = self.0.recent.lock().await;
        if let Some(page) = recent.after(position) {
            return Ok(page);
        }
        let near = recent.last().is_none_or(|last| last <= position);
        if !near {
            drop(recent);
            return self.read(position).await;
        }
        let page = self.read(position).await?;
        recent.keep(&page);
        Ok(page)
    }

    async fn read(&self, position: i64) -> Result<Events, DbError> {
        let page = db::read!(self.0.db, |conn, q| -> Result<_, DbError> { Ok(q::after(conn, position, PAGE).await?) })?;
        Ok(page.into_iter().map(Arc::new).collect())
    }

    /// The owner's events after a position, in order; one small page at most, because every stream holds one.
    pub(super) async fn after_of(&self, position: i64, owner: UserId) -> Result<Events, DbError> {
        let page = db::read!(self.0.db, |conn, q| -> Result<_, DbError> {
            Ok(q::after_of(conn, owner, position, PAGE_OF_OWNER).await?)
        })?;
        Ok(page.into_iter().map(Arc::new).collect())
    }

    /// The mark of the event at a position; `None` if the event is no longer stored.
    pub(super) async fn mark_at(&self, position: i64) -> Result<Option<Mark>, DbError> {
        if let Some(event) = self.0.recent.lock().await.at(position) {
            return Ok(Some(Mark::of(event.id)));
        }
        let id = db::read!(self.0.db, |conn, q| -> Result<_, DbError> { Ok(q::id_at(conn, position).await?) })?;
        Ok(id.map(Mark::of))
    }

    /// The place after the event at a position.
    pub(super) async fn place_at(&self, position: i64) -> Result<Place, DbError> {
        Ok(Place { position, mark: self.mark_at(position).await?.unwrap_or_default() })
    }

    /// The position of the oldest stored event; one past the end if none is stored.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn oldest(&self) -> Result<i64, DbError> {
        let oldest = db::read!(self.0.db, |conn, q| -> Result<_, DbError> { Ok(q::oldest(conn).await?) })?;
        Ok(oldest.unwrap_or_else(|| self.head() + 1))
    }

    /// Deletes events that are older than the retention. Events that a reader of this database has not read yet are
    /// kept four times as long; after that they are deleted too, so that a reader that is gone for good does not let
    /// the log grow without end. Returns how many were deleted.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget(&self) -> Result<u64, DbError> {
        let retention = TimeDelta::from_std(self.0.settings.retention).unwrap_or(TimeDelta::MAX);
        let Some(before) = Utc::now().checked_sub_signed(retention) else { return Ok(0) };
        let Some(too_old) = Utc::now().checked_sub_signed(retention.checked_mul(4).unwrap_or(TimeDelta::MAX)) else {
            return Ok(0);
        };
        let (source, head) = (self.0.source, self.head());
        let mut forgotten = 0;
        // Some at a time, so that other writes need not wait.
        loop {
            let (deleted, more) = db::write!(self.0.db, |conn, q| -> Result<_, DbError> {
                let read = q::hindmost(conn, source).await?.unwrap_or(head);
                match q::forget(conn, before, read.min(head)).await? {
                    (deleted, true) => Ok((deleted, true)),
                    (deleted, false) => {
                        let (unread, more) = q::forget(conn, too_old, head).await?;
                        Ok((deleted + unread, more))
                    }
                }
            })?;
            forgotten += deleted;
            if !more {
                return Ok(forgotten);
            }
        }
    }

    /// Wakes tasks that wait for the log to grow, because they have other work to do.
    pub(super) fn wake(&self) {
        self.0.head.send_modify(|_| {});
    }

    /// The token that stops tasks that follow the log.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(super) fn cursors(&self) -> &Cursors {
        &self.0.cursors
    }

    pub(super) fn dispatched(&self) -> &Dispatch {
        &self.0.dispatch
    }
}
