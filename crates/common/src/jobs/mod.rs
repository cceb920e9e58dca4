//! Background work: a named job that runs again and again until shutdown, watched by metrics.
//!
//! A run that fails, panics or hangs never ends its job: it is logged, counted, and the next one comes.

mod metrics;

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::metrics::Metrics;
use crate::telemetry::span;

/// What is known of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The job's name, for example `saga`.
    pub name: &'static str,
    /// When its last run began.
    pub last_run: Option<DateTime<Utc>>,
    /// When a run last ended well.
    pub last_success: Option<DateTime<Utc>>,
    /// How long its last run took.
    pub last_duration: Option<Duration>,
    /// Why its last run failed; `None` where it did not.
    pub last_error: Option<String>,
    /// Runs so far.
    pub runs: u64,
    /// Runs of them that failed.
    pub failures: u64,
    /// Things done so far, by what the runs reported.
    pub done: u64,
}

/// The jobs of one service.
#[derive(Clone)]
pub struct Jobs {
    service: &'static str,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    statuses: Arc<Mutex<Vec<Status>>>,
    metrics: Metrics,
}

impl Jobs {
    /// No jobs of this service yet. After `shutdown` no run begins; one that is under way is waited for.
    pub fn new(service: &'static str, shutdown: CancellationToken) -> Self {
        Self { service, shutdown, tracker: TaskTracker::new(), statuses: Arc::default(), metrics: Metrics::new() }
    }

    /// Runs `work` now, and then each time `interval` after the last run ended.
    ///
    /// `work` answers with how many things it did. A run longer than `limit` is stopped and counts as failed.
    pub fn every<W, F, E>(&self, name: &'static str, interval: Duration, limit: Duration, mut work: W)
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let index = {
            let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            statuses.push(Status { name, ..Status::default() });
            statuses.len() - 1
        };
        let jobs = self.clone();
        self.tracker.spawn(async move {
            while !jobs.shutdown.is_cancelled() {
                jobs.run(index, name, limit, work()).await;
                tokio::select! {
                    () = jobs.shutdown.cancelled() => {}
                    () = tokio::time::sleep(interval) => {}
                }
            }
        });
    }

    /// What is known of each job, in the order they were added.
    pub fn statuses(&self) -> Vec<Status> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when all jobs have stopped, which they only do after shutdown.
    pub async fn stopped(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn run<F, E>(&self, index: usize, name: &'static str, limit: Duration, work: F)
    where
        F: Future<Output = Result<u64, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let began = Instant::now();
        self.note(index, |status| status.last_run = Some(Utc::now()));
        // In a task of its own, so that a panic ends the run and not the job.
        let run =
            tokio::spawn(span::job(self.service, name).run(async move { tokio::time::timeout(limit, work).await }));
        let result = match run.await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err(format!("took longer than {limit:?} and was stopped")),
            Err(error) => Err(panic_text(&error)),
        };
        let took = began.elapsed();
        self.metrics.ran(name, took, &result);
        if let Err(error) = &result {
            tracing::warn!(job = name, error, "a background job failed; it runs again");
        }
        self.note(index, |status| {
            status.runs += 1;
            status.last_duration = Some(took);
            match result {
                Ok(done) => {
                    status.done += done;
                    status.last_success = Some(Utc::now());
                    status.last_error = None;
                }
                Err(error) => {
                    status.failures += 1;
                    status.last_error = Some(error);
                }
            }
        });
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut Status)) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = statuses.get_mut(index) {
            change(status);
        }
    }
}

fn panic_text(error: &JoinError) -> String {
    if error.is_panic() { "panicked".to_owned() } else { "was aborted".to_owned() }
}

#[cfg(test)]
mod tests;
