//! The task that takes waiting requests and runs them in batches.

use std::{future::Future, panic::AssertUnwindSafe, pin::pin};

use futures::{FutureExt as _, StreamExt as _, future::OptionFuture, stream::FuturesUnordered};
use souk_common::telemetry::metrics;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{BatchError, Job, Limits, SubmitError};

/// The most late batches at a time. The next batch waits until one of them has ended.
pub(super) const LATE: usize = 8;

/// Runs batches with `run`.
pub(super) struct Worker<F> {
    of: &'static str,
    run: F,
    limits: Limits,
}

impl<F> Worker<F> {
    pub(super) fn new(of: &'static str, run: F, limits: Limits) -> Self {
        Self { of, run, limits }
    }

    /// Serves the queue until it is closed and empty.
    pub(super) async fn run<Req, Res, E, Fut>(
        self,
        mut waiting: mpsc::Receiver<Job<Req, Res, E>>,
        closing: CancellationToken,
    ) where
        Req: Clone,
        E: BatchError,
        F: Fn(Vec<Req>) -> Fut,
        Fut: Future<Output = Result<Vec<Result<Res, E>>, E>>,
    {
        let mut closed = false;
        let mut late = FuturesUnordered::new();
        loop {
            let mut jobs = Vec::new();
            tokio::select! {
                biased;
                () = closing.cancelled(), if !closed => {
                    waiting.close();
                    closed = true;
                    continue;
                }
                Some(()) = late.next() => continue,
                taken = waiting.recv_many(&mut jobs, self.limits.batch.max(1)), if late.len() < LATE => {
                    if taken == 0 {
                        break;
                    }
                }
            }
            let mut batch = Box::pin(self.serve(jobs));
            let mut is_late = pin!(OptionFuture::from(self.limits.overlap_after.map(sleep)));
            loop {
                tokio::select! {
                    biased;
                    () = &mut batch => break,
                    Some(()) = late.next() => {}
                    Some(()) = &mut is_late => {
                        late.push(batch);
                        break;
                    }
                }
            }
        }
        late.collect().await
    }

    /// Runs one batch. If it fails because of one of its members, runs its halves.
    async fn serve<Req, Res, E, Fut>(&self, jobs: Vec<Job<Req, Res, E>>)
    where
        Req: Clone,
        E: BatchError,
        F: Fn(Vec<Req>) -> Fut,
        Fut: Future<Output = Result<Vec<Result<Res, E>>, E>>,
    {
        // The next part to run is the last one, so that the order of arrival is kept.
        let mut parts = vec![jobs];
        while let Some(mut jobs) = parts.pop() {
            // Drops requests without a caller. They have not begun, or their batch had no effect.
            jobs.retain(|job| !job.reply.is_closed());
            let Some(first) = jobs.first() else { continue };
            metrics::batch(self.of, jobs.iter().map(|job| job.since.elapsed()));
            let origin = first.origin.clone();
            let requests = jobs.iter().map(|job| job.request.clone()).collect();
            // Only the result is used afterwards, so nobody sees state that a panic left half changed.
            let outcome = AssertUnwindSafe(origin.run(async { (self.run)(requests).await })).catch_unwind().await;
            match outcome {
                Ok(Ok(answers)) if answers.len() == jobs.len() => {
                    for (job, answer) in jobs.into_iter().zip(answers) {
                        // Sending fails if the caller has stopped waiting. Then nobody needs the answer.
                        let _ = job.reply.send(answer.map_err(SubmitError::Failed));
                    }
                }
                Ok(Ok(answers)) => {
                    // The batch took effect, but its results cannot be assigned to requests.
                    tracing::error!(
                        requests = jobs.len(),
                        answers = answers.len(),
                        "batch returned the wrong number of answers"
                    );
                    tell(jobs, &SubmitError::Lost);
                }
                Ok(Err(error)) if jobs.len() == 1 || error.strikes_all() => {
                    tell(jobs, &SubmitError::Failed(error));
                }
                Err(_) if jobs.len() == 1 => tell(jobs, &SubmitError::Lost),
                Ok(Err(_)) | Err(_) => {
                    let later = jobs.split_off(jobs.len() / 2);
                    parts.push(later);
                    parts.push(jobs);
                }
            }
        }
    }
}

fn tell<Req, Res, E: Clone>(jobs: Vec<Job<Req, Res, E>>, error: &SubmitError<E>) {
    for job in jobs {
        // Sending fails if the caller has stopped waiting. Then nobody needs the answer.
        let _ = job.reply.send(Err(error.clone()));
    }
}
