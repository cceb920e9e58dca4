//! The promises of an event log: no event is missed or repeated, and the events of each subject are in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_nats::jetstream::{
    self, Context,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use chrono::Utc;
use futures::StreamExt as _;
use prost::Message as _;
use souk_common::config::Secret;
use souk_common::ids::UserId;
use souk_proto::common::v1;
use souk_store::db::{self, Db};
use souk_store::events::{
    Begin, Checkpoint, Draft, Event, Events, Log, Notifier, Reader, Settings, Stuck, WatchError, nats,
};
use souk_testkit::{find, process::Program, servers, wait};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::store::{self, Error};
use super::{account, both};

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

pub(super) mod postgres {
    pub mod queries {
        pub use crate::db::store::postgres::{fill_events, lose_events_after, plan, queries::*};
        pub use souk_store::events::postgres::{advance, append};
    }
}
pub(super) mod sqlite {
    pub mod queries {
        pub use crate::db::store::sqlite::{fill_events, lose_events_after, plan, queries::*};
        pub use souk_store::events::sqlite::{advance, append};
    }
}

fn settings() -> Settings {
    Settings { retention: Duration::from_secs(3600), poll: Duration::from_millis(20) }
}

pub(super) async fn log(db: &Db, stop: &CancellationToken) -> Log {
    Log::open(db, "accounts", settings(), Notifier::default(), stop.clone()).await.unwrap()
}

/// The number in an event.
pub(super) fn number(event: &Event) -> i64 {
    event.read::<v1::Event>().unwrap().position
}

/// Changes an account and appends an event with the balance after the change. With `fail`, the transaction is rolled
/// back.
pub(super) async fn change(db: &Db, id: UserId, fail: bool) -> Result<(), Error> {
    db::write!(db, |conn, q| {
        // Locks the row, as every change does before it appends its event.
        let balance = q::count_up(conn, id).await?;
        let data = v1::Event { position: balance, ..v1::Event::default() };
        q::append(conn, &[Draft::new("account.changed", id.name(), &data, Utc::now()).owned_by(id)]).await?;
        if fail { Err(Error::TooLittle(0)) } else { Ok(()) }
    })
}

pub(super) async fn accounts(db: &Db, count: usize) -> Vec<UserId> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(store::create(db, &account(&format!("{number}@example.com"), 0)).await.unwrap().id);
    }
    ids
}

/// Reads a log from its beginning, all events or those of an owner, until it has read `count`. It reconnects after each
/// `reopen_after` events.
pub(super) async fn follow(log: Log, owner: Option<UserId>, count: usize, reopen_after: usize) -> Vec<Arc<Event>> {
    let (mut seen, mut cursor) = (Vec::new(), "start".to_owned());
    while seen.len() < count {
        let mut steps = Box::pin(log.watch(Begin::Cursor(&cursor), owner, Some).await.unwrap());
        let first = steps.next().await.unwrap().unwrap();
        assert!(first.found.is_none());
        for _ in 0..reopen_after.min(count - seen.len()) {
            let step = tokio::time::timeout(DEADLINE, steps.next()).await.unwrap().unwrap().unwrap();
            cursor = step.cursor;
            seen.extend(step.found);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_repeated_or_out_of_order_however_writers_race() {
    const TASKS: usize = 8;
    const EACH: usize = 30;
    for fixture in both().await {
        let (engine, stop) = (fixture.db.engine(), CancellationToken::new());
        let ids = accounts(&fixture.db, 5).await;
        // Two replicas of a service assign positions at the same time.
        let logs = [log(&fixture.db, &stop).await, log(&fixture.db, &stop).await];
        let told = TASKS * EACH;
        let mut followers = JoinSet::new();
        for (log, reopen_after) in [(0, usize::MAX), (0, 1), (1, 7), (1, 50)] {
            followers.spawn(follow(logs[log].clone(), None, told, reopen_after));
        }
        // Streams of one owner's events: some stay connected, others reconnect all the time.
        let of_one = told / ids.len();
        let mut owners = JoinSet::new();
        for (log, owner, reopen_after) in [(0, 0, usize::MAX), (1, 0, 1), (1, 1, usize::MAX), (0, 2, 3), (0, 3, 1)] {
            let (log, owner) = (logs[log].clone(), ids[owner]);
            owners.spawn(async move { (owner, follow(log, Some(owner), of_one, reopen_after).await) });
        }
        let mut writers = JoinSet::new();
        for task in 0..TASKS {
            let (db, ids) = (fixture.db.clone(), ids.clone());
            writers.spawn(async move {
                for round in 0..EACH {
                    let id = ids[(task * 7 + round) % ids.len()];
                    while let Err(error) = change(&db, id, false).await {
                        assert!(matches!(&error, Error::Db(error) if error.is_conflict()), "{error:?}");
                    }
                    let refused = change(&db, id, true).await;
                    assert!(refused.is_err());
                }
            });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap();
        }
        while let Some(seen) = followers.join_next().await {
            let seen = seen.unwrap();
            let positions: Vec<_> = seen.iter().map(|event| event.position).collect();
            assert_eq!(positions, (1..=told as i64).collect::<Vec<_>>(), "{engine}");
            let mut last = HashMap::<&str, i64>::new();
            for event in &seen {
                let before = last.insert(&event.subject, number(event)).unwrap_or(0);
                assert_eq!(number(event), before + 1, "{engine}: {}", event.subject);
            }
        }
        while let Some(seen) = owners.join_next().await {
            let (owner, seen) = seen.unwrap();
            assert!(seen.iter().all(|event| event.owner == Some(owner)), "{engine}");
            let numbers: Vec<_> = seen.iter().map(|event| number(event)).collect();
            assert_eq!(numbers, (1..=of_one as i64).collect::<Vec<_>>(), "{engine}");
        }
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_or_invalid_cursor_is_refused() {
    for fixture in both().await {
        let stop = CancellationToken::new();
        let id = accounts(&fixture.db, 1).await[0];
        for _ in 0..3 {
            change(&fixture.db, id, false).await.unwrap();
        }
        let log = log(&fixture.db, &stop).await;
        let fails = async |begin: Begin<'_>| log.watch(begin, None, Some).await.err();
        assert!(matches!(fails(Begin::After(4)).await, Some(WatchError::Beyond { head: 3 })));
        for cursor in ["0", "3", "later"] {
            assert!(matches!(fails(Begin::Cursor(cursor)).await, Some(WatchError::Malformed)), "{cursor}");
        }
        let mut cursors = Vec::new();
        let mut steps = Box::pin(log.watch(Begin::Cursor("start"), None, Some).await.unwrap());
        for _ in 0..=3 {
            cursors.push(steps.next().await.unwrap().unwrap().cursor);
        }
        let old = Utc::now() - chrono::TimeDelta::hours(2);
        let forgotten: Result<(), Error> = db::write!(fixture.db, |conn, q| q::age_events(conn, 2, old).await);
        forgotten.unwrap();
        assert_eq!(log.forget().await.unwrap(), 2);
        assert!(matches!(fails(Begin::Cursor(&cursors[1])).await, Some(WatchError::Expired)));
        assert!(matches!(fails(Begin::After(1)).await, Some(WatchError::Forgotten { oldest: 2 })));
        for begin in [Begin::Cursor(&cursors[2]), Begin::After(2), Begin::Cursor("start")] {
            let mut steps = Box::pin(log.watch(begin, None, Some).await.unwrap());
            steps.next().await.unwrap().unwrap();
            assert_eq!(steps.next().await.unwrap().unwrap().found.unwrap().position, 3);
        }
        // Positions are never reused, even if all events were deleted.
        let forgotten: Result<(), Error> = db::write!(fixture.db, |conn, q| q::age_events(conn, 3, old).await);
        forgotten.unwrap();
        assert_eq!(log.forget().await.unwrap(), 1);
        change(&fixture.db, id, false).await.unwrap();
        assert_eq!(steps.next().await.unwrap().unwrap().found.unwrap().position, 4);
        stop.cancel();
        let ended = steps.next().await.unwrap().unwrap_err();
        assert_eq!(ended.code(), tonic::Code::Unavailable);
        assert!(steps.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_block_others() {
    // More than the connections of the pool.
    const IDLE: usize = 40;
    for fixture in both().await {
        let stop = CancellationToken::new();
        let id = accounts(&fixture.db, 1).await[0];
        let log = log(&fixture.db, &stop).await;
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            let mut steps = Box::pin(log.watch(Begin::Cursor("start"), None, Some).await.unwrap());
            steps.next().await.unwrap().unwrap();
            // Begins to read, and then is not read any further.
            assert!(futures::poll!(steps.next()).is_pending());
            idle.push(steps);
        }
        for count in 1..=3 {
            change(&fixture.db, id, false).await.unwrap();
            assert_eq!(follow(log.clone(), None, count, usize::MAX).await.len(), count);
        }
        drop(idle);
        stop.cancel();
    }
}

/// Writes each event into the second account. Fails now and then, before or after the commit.
struct Copier {
    db: Db,
    into: UserId,
    clumsy: Arc<AtomicBool>,
}

impl Reader for Copier {
    fn name(&self) -> &'static str {
        "copier"
    }

    async fn act(&self, checkpoint: Checkpoint, events: &Events) -> Result<(), Stuck> {
        let few: Events = events.iter().take(3).cloned().collect();
        let clumsy = self.clumsy.load(SeqCst);
        if clumsy && rand::random_bool(0.2) {
            return Err(Stuck::Other("before".into()));
        }
        let copied: Result<(), Error> = db::write!(self.db, |conn, q| {
            if !q::advance(conn, checkpoint, &few).await? {
                return Ok(());
            }
            let numbers = few.iter().map(|event| (event.position as i32, number(event))).collect();
            q::add_entries(conn, self.into, numbers).await?;
            Ok(())
        });
        copied.map_err(|error| Stuck::Other(format!("{error:?}")))?;
        if clumsy && rand::random_bool(0.2) {
            return Err(Stuck::Other("after".into()));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_process_each_event_once_in_order_despite_races_failures_and_restarts() {
    const EVENTS: usize = 120;
    for fixture in both().await {
        let engine = fixture.db.engine();
        let ids = accounts(&fixture.db, 2).await;
        let stop = CancellationToken::new();
        let first = log(&fixture.db, &stop).await;
        first.checkpoint("copier", false).await.unwrap();
        let clumsy = Arc::new(AtomicBool::new(true));
        let reader = || Arc::new(Copier { db: fixture.db.clone(), into: ids[1], clumsy: clumsy.clone() });
        let mut readers = vec![
            tokio::spawn(first.clone().serve(reader())),
            tokio::spawn(log(&fixture.db, &stop).await.serve(reader())),
        ];
        for number in 0..EVENTS {
            while change(&fixture.db, ids[0], false).await.is_err() {}
            if number % 20 == 10 {
                // Aborts the consumer at any point.
                readers.remove(0).abort();
                readers.push(tokio::spawn(first.clone().serve(reader())));
            }
        }
        clumsy.store(false, SeqCst);
        wait::until(DEADLINE, "all to be read", async || {
            store::entries(&fixture.db, ids[1]).await.unwrap().len() >= EVENTS
        })
        .await;
        let copied = store::entries(&fixture.db, ids[1]).await.unwrap();
        let expected: Vec<_> = (1..=EVENTS as i64).map(|number| (number as i32, number)).collect();
        assert_eq!(copied, expected, "{engine}");
        stop.cancel();
    }
}

/// Copies a stream of NATS into an account, as a program of another company would: it stores the last position together
/// with its effect.
async fn copy_from_nats(url: String, db: Db, into: UserId) {
    loop {
        let last = store::entries(&db, into).await.ok().map(|copied| copied.len() as i64);
        if let Some(last) = last
            && let Ok(client) = async_nats::connect(&url).await
        {
            let copied = copy_until_it_breaks(jetstream::new(client), &db, into, last).await;
            tracing::debug!(?copied, "the stream broke off");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn copy_until_it_breaks(nats: Context, db: &Db, into: UserId, mut last: i64) -> Result<(), async_nats::Error> {
    let stream = nats.get_stream(nats::stream("accounts")).await?;
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: last as u64 + 1 };
    let consumer = stream.create_consumer(OrderedConfig { deliver_policy, ..OrderedConfig::default() }).await?;
    let mut messages = consumer.messages().await?;
    while let Some(message) = tokio::time::timeout(Duration::from_secs(2), messages.next()).await? {
        let message = message?;
        let headers = message.headers.clone().unwrap_or_default();
        let position: i64 = headers.get(nats::POSITION).unwrap().as_str().parse()?;
        assert!(position <= last + 1, "position {position} after {last}");
        if position <= last {
            continue;
        }
        let number = v1::Event::decode(message.payload.clone())?.position;
        let copied: Result<(), Error> =
            db::write!(db, |conn, q| Ok(q::add_entries(conn, into, vec![(position as i32, number)])
                .await
                .map(drop)?));
        copied.map_err(|error| format!("{error:?}"))?;
        last = position;
    }
    Ok(())
}

/// `SOUK_TEST_EVENTS=100000` sets the number of events.
#[tokio::test(flavor = "multi_thread")]
async fn nats_gets_each_event_once_in_order_although_everything_is_killed() {
    let events: usize = std::env::var("SOUK_TEST_EVENTS").map_or(600, |events| events.parse().unwrap());
    for fixture in both().await {
        let (engine, db) = (fixture.db.engine(), fixture.db.clone());
        servers::install::ensure("NATS", "nats-server", "nats-server").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = servers::free_port().unwrap();
        let url = format!("nats://127.0.0.1:{port}");
        let mut server = Program::new(find::binary("nats-server").unwrap(), "Server is ready")
            .args(["--addr", "127.0.0.1", "--jetstream", "--port", &port.to_string(), "--store_dir"])
            .arg(folder.path())
            .start()
            .await;
        let ids = accounts(&db, 6).await;
        let (into, stop) = (ids[5], CancellationToken::new());
        let log = log(&db, &stop).await;
        let settings = nats::Settings { nats_url: Secret::new(&*url), nats_tls: Default::default() };
        let relay = async || settings.publish(&log).await.unwrap().unwrap();
        let mut relays = vec![relay().await, relay().await];
        let mut copier = tokio::spawn(copy_from_nats(url.clone(), db.clone(), into));
        let kill_every = (events / 12).clamp(1, 1_000);
        for number in 0..events {
            while change(&db, ids[number % 5], false).await.is_err() {}
            if number % kill_every == kill_every - 1 {
                match rand::random_range(0..4) {
                    0 => {
                        server.kill().await;
                        server.restart().await;
                    }
                    1 => {
                        relays.remove(0).abort();
                        relays.push(relay().await);
                    }
                    2 => {
                        copier.abort();
                        copier = tokio::spawn(copy_from_nats(url.clone(), db.clone(), into));
                    }
                    _ => {
                        // Cuts every connection to PostgreSQL, including this one.
                        let _: Result<(), Error> = db::write!(db, |conn, q| q::cut_connections(conn).await);
                    }
                }
            }
        }
        let all = Duration::from_secs(120).max(Duration::from_millis(10) * events as u32);
        wait::until(all, "all to be copied", async || {
            store::entries(&db, into).await.is_ok_and(|copied| copied.len() >= events)
        })
        .await;
        let copied = store::entries(&db, into).await.unwrap();
        let positions: Vec<_> = copied.iter().map(|(position, _)| *position).collect();
        assert_eq!(positions, (1..=events as i32).collect::<Vec<_>>(), "{engine}");
        let told: Vec<_> =
            follow(log.clone(), None, events, usize::MAX).await.iter().map(|event| number(event)).collect();
        assert_eq!(copied.iter().map(|(_, number)| *number).collect::<Vec<_>>(), told, "{engine}");
        let client = jetstream::new(async_nats::connect(&url).await.unwrap());
        let mut stream = client.get_stream(nats::stream("accounts")).await.unwrap();
        let state = &stream.info().await.unwrap().state;
        assert_eq!((state.messages, state.last_sequence), (events as u64, events as u64), "{engine}");
        copier.abort();
        stop.cancel();
    }
}
