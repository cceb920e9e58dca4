//! Runs one job in this replica, whenever it is due.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use souk_common::telemetry::span;
use tokio::{
    sync::watch,
    task::JoinError,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Held, Inner, Job, Turn, lock, record::Run};

/// The time that a run in progress gets when the service stops. The next run does the rest.
const LAST_RUN: Duration = Duration::from_secs(5);

pub(super) async fn again_and_again<W, F, E>(jobs: Arc<Inner>, job: Arc<Job>, mut work: W)
where
    W: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<u64, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let mut turns = job.turn.subscribe();
    loop {
        let turn = *turns.borrow_and_update();
        let due = if turn.trigger.is_some() { Instant::now() } else { turn.due };
        tokio::select! {
            biased;
            () = jobs.shutdown.cancelled() => return,
            // The sender is in `job`, so this never fails.
            _ = turns.changed() => {}
            () = sleep_until(due), if turn.held.now() => {
                // The lease may have expired in the meantime.
                if turn.held.now() {
                    run(&jobs, &job, turn.trigger, work()).await;
                    let due = Instant::now() + job.interval;
                    job.turn.send_modify(|turn| turn.due = due);
                }
            }
        }
    }
}

async fn run<F, E>(jobs: &Inner, job: &Job, trigger: Option<DateTime<Utc>>, work: F)
where
    F: Future<Output = Result<u64, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let (name, limit) = (job.name, job.limit);
    if trigger.is_some() {
        lock(&job.notes).begun = trigger;
        job.turn.send_modify(|turn| turn.trigger = None);
    }
    let began = Instant::now();
    // The run has a task of its own, so that a panic ends the run and not the job.
    let mut run =
        tokio::spawn(span::job(jobs.service, name).run(async move { tokio::time::timeout(limit, work).await }));
    let result = tokio::select! {
        ended = &mut run => match ended {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err(format!("took longer than {limit:?} and was stopped")),
            Err(error) => Err(panic_text(&error)),
        },
        () = lost(job.turn.subscribe()) => {
            run.abort();
            Err("lost its lease, which could not be renewed in time, and was stopped".to_owned())
        }
        () = last_run_is_over(&jobs.shutdown) => {
            run.abort();
            Err(format!("still ran {LAST_RUN:?} after the service was told to stop, and was stopped"))
        }
    };
    let took = began.elapsed();
    jobs.metrics.ran(name, took, &result);
    if let Err(error) = &result {
        tracing::warn!(job = name, error, "background job failed; will retry");
    }
    let mut notes = lock(&job.notes);
    let failed = result.is_err();
    if !failed {
        notes.last_success = Utc::now();
    }
    let failed_before = std::mem::replace(&mut notes.failing, failed);
    notes.unwritten.add(Run { began: began.into_std(), took, result, trigger }, failed_before);
    if notes.unwritten.urgent {
        jobs.look.notify_one();
    }
}

async fn last_run_is_over(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(LAST_RUN).await;
}

/// Returns when this replica no longer holds the lease.
async fn lost(mut turns: watch::Receiver<Turn>) {
    loop {
        let held = turns.borrow_and_update().held;
        let end = match held {
            Held::Not => return,
            Held::Always => return std::future::pending().await,
            Held::Until(end) => end,
        };
        tokio::select! {
            () = sleep_until(end) => return,
            _ = turns.changed() => {}
        }
    }
}

fn panic_text(error: &JoinError) -> String {
    if error.is_panic() { "panicked".to_owned() } else { "was aborted".to_owned() }
}
