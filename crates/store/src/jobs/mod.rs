//! Background work: named jobs that run repeatedly until shutdown. Their state is in the database, where operators can
//! see it and request a run.
//!
//! A run that fails, panics or hangs never ends its job. It is logged and counted, and the next run follows.
//!
//! # Which replica runs a job
//! A job runs in the one replica of the service that holds its lease ([`Jobs::leased`]), or in every replica
//! ([`Jobs::everywhere`]). A replica takes the lease of a job that nobody holds, keeps it over many runs, renews it
//! when half of it is over, and releases it when it stops. When a replica dies, another one continues once the lease
//! has expired.
//!
//! Leases are measured by the database's clock, so wrong clocks of replicas do no harm. A holder measures its lease by
//! its own monotonic clock from before its request, so it stops no later than another replica can begin: a run whose
//! lease could not be renewed is aborted. Only a process that was suspended (SIGSTOP, a paused machine) may finish a
//! statement later than that. So a lease saves work, but the work must tolerate two runs at the same time.
//!
//! # When a replica writes
//! A run alone writes nothing. A replica that holds leases writes once in half a lease, for all its jobs in one
//! transaction, and this stores the results of its runs, too. A failure, the first success after a failure, and the end
//! of a requested run are written at once, but not more often than every [`WRITE_AT_MOST_EVERY`]. All other replicas
//! only read.

mod keeper;
mod metrics;
mod record;
mod rpc;
mod run;
mod store;

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{keeper::Keeper, metrics::Metrics, record::Unwritten};
use crate::db::{Db, DbError};

pub use self::{record::Record, rpc::JobRpc};

/// Duration of a lease. If a replica dies, another one runs its jobs after this time and one look at the table.
pub const LEASE: Duration = Duration::from_secs(15);

/// The least time between two writes of one replica.
pub const WRITE_AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The job's row, with the results of this replica's runs added.
    pub record: Record,
    /// True if every replica runs the job.
    pub everywhere: bool,
    /// The time between the end of a run and the next run.
    pub interval: Duration,
    /// How much older the last success is than the interval.
    pub lag: Duration,
}

/// The jobs of one service.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    service: &'static str,
    /// The name that distinguishes this replica from the others.
    replica: String,
    db: Db,
    lease: Duration,
    shutdown: CancellationToken,
    runners: TaskTracker,
    keeper: TaskTracker,
    /// Notified of a new job, a requested run, or a result to record.
    look: Notify,
    jobs: Arc<Mutex<Vec<Arc<Job>>>>,
    metrics: Metrics,
}

/// A job in this replica.
struct Job {
    name: &'static str,
    everywhere: bool,
    interval: Duration,
    limit: Duration,
    turn: watch::Sender<Turn>,
    notes: Mutex<Notes>,
}

/// Whether this replica may run a job, and when.
#[derive(Clone, Copy, Debug)]
struct Turn {
    held: Held,
    /// When the next run is due.
    due: Instant,
    /// The time of a request for a run, if there is one.
    trigger: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Not,
    Until(Instant),
    Always,
}

impl Held {
    fn now(self) -> bool {
        match self {
            Self::Not => false,
            Self::Until(end) => Instant::now() < end,
            Self::Always => true,
        }
    }
}

/// Results of runs, for the table and for the metrics.
struct Notes {
    unwritten: Unwritten,
    /// The last requested run that this replica began.
    begun: Option<DateTime<Utc>>,
    failing: bool,
    /// When a run last succeeded in any replica, or when this replica started; by its own clock.
    last_success: DateTime<Utc>,
}

impl Jobs {
    /// Creates the service's list of jobs, which is empty at first. After `shutdown` no run begins; a run in progress
    /// is waited for.
    pub fn new(service: &'static str, db: Db, shutdown: CancellationToken) -> Self {
        Self::with_lease(service, db, shutdown, LEASE)
    }

    /// Like [`Jobs::new`], with leases of another duration than [`LEASE`].
    pub fn with_lease(service: &'static str, db: Db, shutdown: CancellationToken, lease: Duration) -> Self {
        let jobs = Arc::default();
        let inner = Inner {
            service,
            replica: replica_name(),
            db,
            lease,
            shutdown,
            runners: TaskTracker::new(),
            keeper: TaskTracker::new(),
            look: Notify::new(),
            metrics: Metrics::new(&jobs, lease),
            jobs,
        };
        let inner = Arc::new(inner);
        inner.keeper.spawn(Keeper::new(inner.clone()).keep());
        inner.keeper.close();
        Self(inner)
    }

    /// Runs `work` in one replica of the service: when the last run of any replica is `interval` ago, and then each
    /// time `interval` after the last run ended.
    ///
    /// `work` returns how many items it processed. A run longer than `limit` is stopped and counts as failed.
    pub fn leased<W, F, E>(&self, name: &'static str, interval: Duration, limit: Duration, work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.add(name, false, interval, limit, work);
    }

    /// Runs `work` in every replica of the service, now and then each time `interval` after the last run ended. Use it
    /// for work that replicas can share without a lease, and that should not wait until the lease of a dead replica
    /// ends.
    ///
    /// `work` returns how many items it processed. A run longer than `limit` is stopped and counts as failed.
    pub fn everywhere<W, F, E>(&self, name: &'static str, interval: Duration, limit: Duration, work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.add(name, true, interval, limit, work);
    }

    fn add<W, F, E>(&self, name: &'static str, everywhere: bool, interval: Duration, limit: Duration, work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let held = if everywhere { Held::Always } else { Held::Not };
        let turn = Turn { held, due: Instant::now(), trigger: None };
        let notes = Notes { unwritten: Unwritten::default(), begun: None, failing: false, last_success: Utc::now() };
        let (turn, notes) = (watch::Sender::new(turn), Mutex::new(notes));
        let job = Arc::new(Job { name, everywhere, interval, limit, turn, notes });
        lock(&self.0.jobs).push(job.clone());
        self.0.runners.spawn(run::again_and_again(self.0.clone(), job, work));
        self.0.look.notify_one();
    }

    /// The status of each job, sorted by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn statuses(&self) -> Result<Vec<Status>, DbError> {
        let mut jobs = lock(&self.0.jobs).clone();
        jobs.sort_by_key(|job| job.name);
        let names: Vec<_> = jobs.iter().map(|job| job.name).collect();
        let (now, mut records) = store::read(&self.0.db, &names).await?;
        let status = |job: Arc<Job>| {
            let mut record = match records.iter().position(|record| record.name == job.name) {
                Some(at) => records.swap_remove(at),
                None => Record { name: job.name.to_owned(), ..Record::default() },
            };
            if record.is_free(now, self.0.lease) {
                record.release();
            }
            let notes = lock(&job.notes);
            notes.unwritten.apply(&mut record, now);
            let since = record.last_success_at.map_or_else(|| Utc::now() - notes.last_success, |at| now - at);
            let lag = since.to_std().unwrap_or_default().saturating_sub(job.interval);
            Status { record, everywhere: job.everywhere, interval: job.interval, lag }
        };
        Ok(jobs.into_iter().map(status).collect())
    }

    /// Requests a run now, whatever the interval: by the replica that holds the lease, at once or at its next look, or
    /// by this replica, if every replica runs the job. If a run is in progress, another one follows it. `None` if there
    /// is no such job.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn trigger(&self, name: &str) -> Result<Option<Status>, DbError> {
        let Some(known) = lock(&self.0.jobs).iter().map(|job| job.name).find(|known| *known == name) else {
            return Ok(None);
        };
        store::change(&self.0.db, &[known], |record, now| record.triggered_at = Some(now)).await?;
        self.0.look.notify_one();
        Ok(self.statuses().await?.into_iter().find(|status| status.record.name == name))
    }

    /// Returns when all jobs have stopped and their leases are released, which happens only after shutdown.
    pub async fn stopped(&self) {
        self.0.keeper.wait().await;
    }
}

/// A replica's name, as operators see it: its machine, its process, and a number, because a process may be several
/// replicas.
fn replica_name() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = host.unwrap_or_default();
    let host = if host.trim().is_empty() { "replica" } else { host.trim() };
    format!("{host}/{}/{:08x}", std::process::id(), rand::random::<u32>())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
