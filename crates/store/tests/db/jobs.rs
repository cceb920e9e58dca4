//! Background jobs: each job runs on one of several replicas, and no failed run ends its job.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use souk_store::{
    db::{Config, Db, Engine, Pools},
    jobs::{Jobs, Record, Status},
};
use souk_testkit::{proxy::Proxy, wait};
use tokio_util::sync::CancellationToken;

use super::{Fixture, both, connect, postgres};

const DEADLINE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(5);
/// Long enough that no lease expires by accident, and short enough to wait for its end.
const LEASE: Duration = Duration::from_secs(4);

/// One replica of a service.
struct Replica {
    jobs: Jobs,
    shutdown: CancellationToken,
}

impl Replica {
    fn on(db: Db, lease: Duration) -> Self {
        let shutdown = CancellationToken::new();
        Self { jobs: Jobs::with_lease("test", db, shutdown.clone(), lease), shutdown }
    }

    /// A replica with its own connections, like another process.
    async fn of(fixture: &Fixture, lease: Duration) -> Self {
        Self::on(connect(&Config::at(&fixture.database.url), &fixture.database).await, lease)
    }

    /// Adds a job that counts its runs.
    fn counting(&self, name: &'static str, interval: Duration) -> Arc<AtomicU64> {
        let runs = Arc::new(AtomicU64::new(0));
        let count = runs.clone();
        self.jobs.leased(name, interval, HOUR, move || {
            count.fetch_add(1, SeqCst);
            async { Ok::<_, String>(1) }
        });
        runs
    }

    async fn status(&self, name: &str) -> Status {
        let statuses = self.jobs.statuses().await.unwrap();
        statuses.into_iter().find(|status| status.record.name == name).unwrap()
    }

    /// Waits until this replica sees the job in this state.
    async fn sees(&self, name: &str, reached: impl Fn(&Record) -> bool) -> Status {
        wait::value(DEADLINE, "the list to show it", async || {
            let status = self.status(name).await;
            reached(&status.record).then_some(status)
        })
        .await
    }

    /// Stops the replica as SIGTERM does.
    async fn stop(&self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.jobs.stopped()).await.unwrap();
    }
}

/// The number of runs in the table.
async fn written(db: &Db) -> i64 {
    use diesel_async::RunQueryDsl;
    #[derive(diesel::QueryableByName)]
    struct Runs {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        runs: i64,
    }
    let sum = diesel::sql_query("SELECT CAST(sum(runs) AS bigint) AS runs FROM jobs");
    let found: Runs = match db.pools() {
        Pools::Postgres(pool) => sum.get_result(&mut *pool.get().await.unwrap()).await.unwrap(),
        Pools::Sqlite(pool) => sum.get_result(&mut *pool.reader().await.unwrap()).await.unwrap(),
    };
    found.runs
}

async fn reaches(runs: &AtomicU64, least: u64) {
    wait::until(DEADLINE, "more runs", async || runs.load(SeqCst) >= least).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_runs_a_job_and_the_other_continues_when_it_stops() {
    for fixture in both().await {
        let first = Replica::of(&fixture, LEASE).await;
        let by_first = first.counting("tick", TICK);
        reaches(&by_first, 1).await;
        let second = Replica::of(&fixture, LEASE).await;
        let by_second = second.counting("tick", TICK);
        let everywhere = [&first, &second].map(|replica| {
            let runs = Arc::new(AtomicU64::new(0));
            let count = runs.clone();
            replica.jobs.everywhere("each", TICK, HOUR, move || {
                count.fetch_add(1, SeqCst);
                async { Ok::<_, String>(1) }
            });
            runs
        });
        for runs in everywhere.iter().chain([&by_first]) {
            reaches(runs, 100).await;
        }
        // After more than one lease, which shows that it is renewed.
        let until = first.status("tick").await.record.lease_until.unwrap();
        let later = second.sees("tick", |record| record.lease_until > Some(until) && until < Utc::now()).await.record;
        assert_eq!(by_second.load(SeqCst), 0);
        assert_eq!(second.status("each").await.record.holder, None);
        assert!(second.status("each").await.everywhere && !second.status("tick").await.everywhere);

        first.stop().await;
        let written = second.status("tick").await.record;
        assert_ne!(written.holder, later.holder, "the lease was not given up");
        assert!(written.runs >= i64::try_from(by_first.load(SeqCst)).unwrap(), "runs were not written down");
        reaches(&by_second, 1).await;
        let taken = second.sees("tick", |record| record.holder.is_some()).await.record;
        assert_ne!(taken.holder, later.holder);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_runs_the_job_when_the_lease_of_a_dead_one_has_expired() {
    for fixture in both().await {
        let lease = Duration::from_secs(2);
        let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (url, data_dir) = (fixture.database.url.clone(), fixture.database.data_dir().to_owned());
        let first = dying.spawn(async move {
            let db = Db::connect(&Config::at(url), &data_dir, "accounts", super::store::migrations()).await.unwrap();
            let replica = Replica::on(db, lease);
            (replica.counting("tick", TICK), replica)
        });
        let (by_first, _first) = first.await.unwrap();
        reaches(&by_first, 1).await;

        let second = Replica::of(&fixture, lease).await;
        let began: Arc<Mutex<Option<DateTime<Utc>>>> = Arc::default();
        let note = began.clone();
        second.jobs.leased("tick", TICK, HOUR, move || {
            note.lock().unwrap().get_or_insert(Utc::now());
            async { Ok::<_, String>(1) }
        });
        reaches(&by_first, 50).await;
        // Everything on this runtime stops at once, without releasing the lease.
        dying.shutdown_background();
        let left = second.status("tick").await.record;
        assert!(left.holder.is_some());
        let began = wait::value(DEADLINE, "the second replica to run", async || *began.lock().unwrap()).await;
        assert!(Some(began) >= left.lease_until, "{began} is before the end of the lease, {left:?}");
        let taken = second.status("tick").await.record;
        assert!(taken.holder.is_some() && taken.holder != left.holder);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_requested_from_any_replica_is_done_by_the_holder() {
    for fixture in both().await {
        let first = Replica::of(&fixture, LEASE).await;
        let by_first = first.counting("rare", HOUR);
        reaches(&by_first, 1).await;
        let second = Replica::of(&fixture, LEASE).await;
        let by_second = second.counting("rare", HOUR);

        for (asked, runs) in [(&second, 2), (&first, 3)] {
            let answer = asked.jobs.trigger("rare").await.unwrap().unwrap();
            assert!(answer.record.triggered_at.is_some() || answer.record.runs == runs, "{answer:?}");
            let ran = second.sees("rare", |record| record.triggered_at.is_none()).await;
            assert_eq!((ran.record.runs, ran.record.failures, ran.record.items), (runs, 0, runs));
            assert_eq!((ran.interval, ran.lag), (HOUR, Duration::ZERO));
        }
        assert_eq!((by_first.load(SeqCst), by_second.load(SeqCst)), (3, 0));
        assert_eq!(second.jobs.trigger("unknown").await.unwrap(), None);

        // A run of another replica within the last hour is not repeated, but a run that was requested and not done is.
        first.stop().await;
        second.sees("rare", |record| record.holder.is_some()).await;
        second.jobs.trigger("rare").await.unwrap();
        reaches(&by_second, 1).await;
        second.stop().await;
        assert_eq!(by_second.load(SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_a_panic_and_a_hang_are_reported_and_end_no_job() {
    for fixture in both().await {
        let [runs, looks] = [Replica::of(&fixture, LEASE).await, Replica::of(&fixture, LEASE).await];
        let turn = Arc::new(AtomicU64::new(0));
        let go: Arc<AtomicU64> = Arc::default();
        let (turns, gate) = (turn.clone(), go.clone());
        runs.jobs.leased("odd", TICK, Duration::from_millis(100), move || {
            let (turn, gate) = (turns.fetch_add(1, SeqCst), gate.clone());
            async move {
                // Each run fails until the failure was seen.
                match gate.load(SeqCst) {
                    0 => Err(format!("no luck in turn {turn}")),
                    1 => panic!("on purpose"),
                    2 => std::future::pending().await,
                    _ => Ok(7),
                }
            }
        });
        runs.sees("odd", |record| record.holder.is_some()).await;
        looks.counting("odd", TICK);
        for (stage, shown) in [(1, "no luck in turn"), (2, "panicked"), (3, "took longer than 100ms and was stopped")] {
            let wrong = |record: &Record| record.last_error.as_ref().is_some_and(|error| error.starts_with(shown));
            let status = looks.sees("odd", wrong).await.record;
            assert!(status.failures > 0 && status.failures == status.runs, "{status:?}");
            assert_eq!((status.last_success_at, status.items), (None, 0));
            assert!(status.last_run_at.is_some() && status.last_duration_ms.is_some());
            go.store(stage, SeqCst);
        }
        let well = looks.sees("odd", |record| record.last_success_at.is_some()).await.record;
        assert_eq!(well.last_error, None);
        assert_eq!(well.items, 7 * (well.runs - well.failures));
        runs.stop().await;
        looks.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn successful_runs_are_not_stored_one_by_one() {
    for fixture in both().await {
        let replica = Replica::of(&fixture, 20 * LEASE).await;
        let runs = replica.counting("tick", TICK);
        reaches(&runs, 1).await;
        let before = written(&fixture.db).await;
        reaches(&runs, 200).await;
        assert_eq!(written(&fixture.db).await, before, "{}", fixture.db.engine());
        // The list counts them, and they are stored at the end.
        assert!(replica.status("tick").await.record.runs >= 199);
        replica.stop().await;
        assert_eq!(written(&fixture.db).await, i64::try_from(runs.load(SeqCst)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_the_run_under_way_and_begins_no_other() {
    for fixture in both().await {
        let replica = Replica::of(&fixture, LEASE).await;
        let (began, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (token, begins, ends) = (replica.shutdown.clone(), began.clone(), ended.clone());
        replica.jobs.leased("slow", Duration::ZERO, HOUR, move || {
            let (token, begins, ends) = (token.clone(), begins.clone(), ends.clone());
            async move {
                begins.fetch_add(1, SeqCst);
                token.cancelled().await;
                ends.fetch_add(1, SeqCst);
                Ok::<_, String>(1)
            }
        });
        reaches(&began, 1).await;
        replica.stop().await;
        assert_eq!((began.load(SeqCst), ended.load(SeqCst)), (1, 1));
    }
}

/// The replica that cannot renew its lease stops its run before another replica begins one.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_with_the_lease_that_could_not_be_renewed() {
    struct Running(Arc<AtomicU64>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let fixture = postgres(|_| {}).await;
    assert_eq!(fixture.db.engine(), Engine::Postgres);
    let proxy = Proxy::before(&fixture.database.url).await;
    let config = Config { acquire_timeout: Duration::from_millis(500), ..Config::at(proxy.url(&fixture.database.url)) };
    let lease = Duration::from_secs(2);
    let cut_off = Replica::on(connect(&config, &fixture.database).await, lease);
    let (running, met) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let endless = |replica: &Replica| {
        let begun = Arc::new(AtomicU64::new(0));
        let (running, met, begins) = (running.clone(), met.clone(), begun.clone());
        replica.jobs.leased("endless", TICK, HOUR, move || {
            met.fetch_max(running.fetch_add(1, SeqCst), SeqCst);
            begins.fetch_add(1, SeqCst);
            let running = Running(running.clone());
            async move {
                let _running = running;
                std::future::pending::<Result<u64, String>>().await
            }
        });
        begun
    };
    reaches(&endless(&cut_off), 1).await;
    let other = Replica::of(&fixture, lease).await;
    let by_other = endless(&other);
    // The replica holds the lease for longer than its first duration, and the run continues.
    let until = other.status("endless").await.record.lease_until.unwrap();
    other.sees("endless", |record| record.lease_until > Some(until) && until < Utc::now()).await;
    assert_eq!((running.load(SeqCst), by_other.load(SeqCst)), (1, 0));
    proxy.cut();
    reaches(&by_other, 1).await;
    assert_eq!(met.load(SeqCst), 0, "two ran at a time");
    proxy.restore();
    other.sees("endless", |record| record.failures == 1).await;
    let error = other.status("endless").await.record.last_error.unwrap();
    assert!(error.starts_with("lost its lease"), "{error}");
}
