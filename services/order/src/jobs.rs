//! Background work: takes over sagas without a runner, and deletes old idempotency records and events.

pub mod payments;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk_common::{context::RequestContext, error::chain};
use souk_store::{events::Log, jobs::Jobs};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::Inventory,
    config::Settings,
    error::Error,
    saga::{
        ports::{Journal, Stock},
        runner::Sagas,
    },
    store::{Store, ago},
};

/// The longest duration of a job's run. No job should take this long; if one does, it is stopped and starts again.
const LIMIT: Duration = Duration::from_secs(300);
/// The interval of the cleanup jobs.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// Starts the jobs.
pub fn start(jobs: &Jobs, settings: &Settings, store: &Store, sagas: &Sagas, log: &Log, shutdown: &CancellationToken) {
    let recovery = Recovery::new(sagas.clone(), settings.saga.concurrency, shutdown.clone());
    // Runs on every replica: orders have leases of their own, and each replica skips orders that another one is
    // claiming (SKIP LOCKED). So all replicas share the work. A job lease would add a delay when its replica dies.
    jobs.everywhere("saga", settings.saga.interval, LIMIT, move || {
        let recovery = recovery.clone();
        async move { recovery.run().await.map_err(|error| chain(&error)) }
    });

    let (store, retention) = (store.clone(), settings.idempotency_retention);
    // Leased, because replicas that clean at the same time would only wait for each other's row locks.
    jobs.leased("request-cleanup", CLEAN_EVERY, LIMIT, move || {
        let store = store.clone();
        async move {
            let Some(before) = ago(retention) else { return Ok(0) };
            store.forget(before).await.map_err(|error| chain(&error))
        }
    });

    // Leased for the same reason.
    let log = log.clone();
    jobs.leased("event-cleanup", CLEAN_EVERY, LIMIT, move || {
        let log = log.clone();
        async move { log.forget().await.map_err(|error| chain(&error)) }
    });
}

/// Runs sagas whose lease has expired or whose next try is due.
#[derive(Clone)]
pub(crate) struct Recovery<J = Store, S = Inventory> {
    sagas: Sagas<J, S>,
    running: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl<J: Journal, S: Stock> Recovery<J, S> {
    /// Creates the job, which runs at most `concurrency` sagas at a time.
    pub(crate) fn new(sagas: Sagas<J, S>, concurrency: usize, shutdown: CancellationToken) -> Self {
        Self { sagas, running: Arc::new(Semaphore::new(concurrency)), shutdown }
    }

    /// Runs until nothing is due, a bounded number at a time. Returns how many sagas it took over.
    pub(crate) async fn run(&self) -> Result<u64, Error> {
        let began = Instant::now();
        let mut taken = 0;
        while !self.shutdown.is_cancelled() && began.elapsed() < LIMIT / 2 {
            let Ok(permit) = self.running.clone().acquire_owned().await else {
                break;
            };
            let room = self.running.available_permits();
            let (lease, found) = self.sagas.claim(room + 1).await?;
            if found.is_empty() {
                break;
            }
            drop(permit);
            for saga in found {
                let Ok(permit) = self.running.clone().acquire_owned().await else {
                    break;
                };
                taken += 1;
                let sagas = self.sagas.clone();
                self.sagas.track(async move {
                    RequestContext::background().scope(sagas.resume(saga, lease)).await;
                    drop(permit);
                });
            }
        }
        Ok(taken)
    }
}
