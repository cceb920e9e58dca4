//! Streams of one owner's events, and checks of their cursors.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use futures::{
    Stream, StreamExt as _,
    task::{ArcWake, waker},
};
use souk_common::ids::UserId;
use souk_store::db::{self, Engine};
use souk_store::events::{AFTER_OF, Begin, Event, Log, Step, WatchError};
use souk_testkit::wait;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::events::{DEADLINE, accounts, change, follow, log, number, postgres, sqlite};
use super::store::Error;
use super::{Fixture, both};

type Steps = Pin<Box<dyn Stream<Item = Result<Step<Arc<Event>>, Status>> + Send>>;

async fn watch(log: &Log, begin: Begin<'_>, owner: UserId) -> (Steps, String) {
    let mut steps: Steps = Box::pin(log.watch(begin, Some(owner), Some).await.unwrap());
    let first = next(&mut steps).await;
    assert_eq!(first.found, None);
    (steps, first.cursor)
}

async fn next(steps: &mut Steps) -> Step<Arc<Event>> {
    tokio::time::timeout(DEADLINE, steps.next()).await.unwrap().unwrap().unwrap()
}

/// Counts how often a stream is notified.
#[derive(Default)]
struct Woken(AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_wakes_its_owners_streams_and_no_other() {
    const WATCHING: usize = 200;
    for fixture in both().await {
        let stop = CancellationToken::new();
        let ids = accounts(&fixture.db, WATCHING).await;
        let log = log(&fixture.db, &stop).await;
        let mut streams = Vec::new();
        for id in &ids {
            let (mut steps, _) = watch(&log, Begin::Cursor(""), *id).await;
            let woken = Arc::new(Woken::default());
            let polled = steps.poll_next_unpin(&mut Context::from_waker(&waker(woken.clone())));
            assert!(matches!(polled, Poll::Pending));
            streams.push((steps, woken));
        }
        for ordered in [7, 150] {
            change(&fixture.db, ids[ordered], false).await.unwrap();
            let (steps, woken) = &mut streams[ordered];
            wait::until(DEADLINE, "the owner's stream to be woken", async || woken.0.load(SeqCst) > 0).await;
            assert_eq!(next(steps).await.found.unwrap().owner, Some(ids[ordered]));
        }
        let woken = streams.iter().filter(|(_, woken)| woken.0.load(SeqCst) > 0).count();
        assert_eq!(woken, 2, "{}", fixture.db.engine());
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_paused_for_long_misses_nothing() {
    // More events than a stream buffers, and more than it reads at a time.
    const EVENTS: usize = 120;
    for fixture in both().await {
        let stop = CancellationToken::new();
        let ids = accounts(&fixture.db, 2).await;
        let log = log(&fixture.db, &stop).await;
        let (mut idle, _) = watch(&log, Begin::Cursor(""), ids[0]).await;
        assert!(futures::poll!(idle.next()).is_pending());
        for _ in 0..EVENTS {
            change(&fixture.db, ids[0], false).await.unwrap();
            change(&fixture.db, ids[1], false).await.unwrap();
        }
        follow(log.clone(), Some(ids[0]), EVENTS, usize::MAX).await;
        for expected in 1..=EVENTS as i64 {
            assert_eq!(number(&next(&mut idle).await.found.unwrap()), expected, "{}", fixture.db.engine());
        }
        change(&fixture.db, ids[0], false).await.unwrap();
        assert_eq!(number(&next(&mut idle).await.found.unwrap()), EVENTS as i64 + 1);
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_three_events_among_fifty_thousand_reads_only_three() {
    for fixture in both().await {
        let (engine, owner) = (fixture.db.engine(), UserId::new());
        let own = [100, 25_000, 49_999];
        let filled: Result<(), Error> =
            db::write!(fixture.db, |conn, q| Ok(q::fill_events(conn, 50_000, owner, own).await?));
        filled.unwrap();
        let explain: Result<Vec<String>, Error> =
            db::read!(fixture.db, |conn, q| Ok(q::plan(conn, AFTER_OF, owner).await?));
        let plan = explain.unwrap().join("\n");
        println!("{engine}:\n{plan}");
        match engine {
            Engine::Sqlite => {
                assert_eq!(plan, "SEARCH events USING INDEX events_of_owner (owner_id=? AND rowid>?)");
            }
            Engine::Postgres => {
                assert!(plan.contains("events_of_owner") && plan.contains("actual rows=3"), "{plan}");
                assert!(!plan.contains("Filter") && !plan.contains("Seq Scan"), "{plan}");
            }
        }
        let stop = CancellationToken::new();
        let log = log(&fixture.db, &stop).await;
        let (mut steps, _) = watch(&log, Begin::Cursor("start"), owner).await;
        for position in own {
            assert_eq!(next(&mut steps).await.found.unwrap().position, position);
        }
        stop.cancel();
    }
}

/// Deletes the events after a position, as the restore of a backup does.
async fn restore(fixture: &Fixture, position: i64) {
    let restored: Result<(), Error> = db::write!(fixture.db, |conn, q| Ok(q::lose_events_after(conn, position).await?));
    restored.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_is_noticed_even_if_it_has_grown_past_the_cursor() {
    for fixture in both().await {
        let engine = fixture.db.engine();
        let id = accounts(&fixture.db, 1).await[0];
        let opened = async || {
            let stop = CancellationToken::new();
            (log(&fixture.db, &stop).await, stop.drop_guard())
        };
        let (before, stopped) = opened().await;
        let (mut steps, mut cursors) = (watch(&before, Begin::Cursor("start"), id).await.0, Vec::new());
        for _ in 0..6 {
            change(&fixture.db, id, false).await.unwrap();
            cursors.push(next(&mut steps).await.cursor);
        }
        drop((steps, before, stopped));
        restore(&fixture, 4).await;
        let fails = async |log: &Log, cursor: &str| log.watch(Begin::Cursor(cursor), Some(id), Some).await.err();
        let (log, _stop) = opened().await;
        assert_eq!(log.head(), 4, "{engine}");
        // The cursors are beyond the end of the log.
        assert!(matches!(fails(&log, &cursors[4]).await, Some(WatchError::Restored)), "{engine}");
        for _ in 0..4 {
            change(&fixture.db, id, false).await.unwrap();
        }
        assert_eq!(follow(log.clone(), Some(id), 8, usize::MAX).await.len(), 8);
        // Other events have these positions now.
        for cursor in &cursors[4..] {
            assert!(matches!(fails(&log, cursor).await, Some(WatchError::Restored)), "{engine}");
        }
        // A cursor of an event that still exists continues.
        let (mut steps, _) = watch(&log, Begin::Cursor(&cursors[3]), id).await;
        assert_eq!(next(&mut steps).await.found.unwrap().position, 5);
        // A new database has another epoch.
        let [sqlite, postgres] = both().await;
        let anew = if engine == Engine::Sqlite { sqlite } else { postgres };
        let stop = CancellationToken::new();
        let log = super::events::log(&anew.db, &stop).await;
        assert!(matches!(fails(&log, &cursors[0]).await, Some(WatchError::OtherLog)), "{engine}");
        stop.cancel();
    }
}
