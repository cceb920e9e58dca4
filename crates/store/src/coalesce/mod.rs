//! Writes that share a commit: requests that wait while a batch is in flight form the next one.
//!
//! A commit costs a disk flush, and writers of the same row must queue, so one transaction serves all waiting requests.
//! A single request does not wait for others. Each request gets its own answer. If a batch fails as a whole, it is
//! halved until the failing member is alone, so the other members succeed.
//!
//! A batch runs in the span and with the request id of its first member that still has a caller.

mod worker;

#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use worker::Worker;

use souk_common::{context::RequestContext, telemetry::span::RequestSpan};

/// The limits of a coalescer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most requests in one batch; 0 counts as 1.
    pub batch: usize,
    /// Most requests that may wait for a batch; further requests are refused. 0 counts as 1.
    pub queue: usize,
    /// The time after which the next batch starts while this one still runs, so that one hanging call does not block
    /// later requests. If `None`, batches run one at a time.
    pub overlap_after: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch: 256, queue: 4096, overlap_after: None }
    }
}

/// The failure of a whole batch, or of one member.
pub trait BatchError: Clone + Send + 'static {
    /// True if every member would fail in the same way, for example because the database is unreachable. Such a batch
    /// is not retried member by member: all members get this error.
    fn strikes_all(&self) -> bool;
}

/// Why a request got no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError<E> {
    /// Too many requests are waiting. Nothing was done; try again later.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The coalescer is shutting down. Nothing was done.
    #[error("shutting down")]
    Closed,
    /// The batch ended without results, because of a bug in its code. Whether it took effect is unknown.
    #[error("the batch ended without an answer")]
    Lost,
    /// The error that the batch returned.
    #[error(transparent)]
    Failed(E),
}

/// A waiting request and the sender of its answer.
struct Job<Req, Res, E> {
    request: Req,
    /// When it began to wait.
    since: Instant,
    /// The span and context of its caller.
    origin: Origin,
    reply: oneshot::Sender<Result<Res, SubmitError<E>>>,
}

/// The span and the context of a waiting request.
#[derive(Clone)]
struct Origin {
    span: RequestSpan,
    request: Option<RequestContext>,
}

impl Origin {
    fn here() -> Self {
        Self { span: RequestSpan::current(), request: RequestContext::current() }
    }

    /// Runs a batch in this request's span and context, but without its deadline, because it serves others, too.
    async fn run<F: Future>(self, batch: F) -> F::Output {
        match self.request {
            Some(request) => self.span.run(request.detached().scope(batch)).await,
            None => self.span.run(batch).await,
        }
    }
}

/// Gathers requests into batches. Clones share one queue. After the last clone is dropped, the coalescer serves the
/// queued requests and stops; [`Coalescer::drain`] does this at once and waits for it.
pub struct Coalescer<Req, Res, E> {
    queue: mpsc::Sender<Job<Req, Res, E>>,
    closing: CancellationToken,
    worker: Arc<TaskTracker>,
}

impl<Req, Res, E> Clone for Coalescer<Req, Res, E> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), closing: self.closing.clone(), worker: Arc::clone(&self.worker) }
    }
}

impl<Req, Res, E> Coalescer<Req, Res, E>
where
    Req: Clone + Send + 'static,
    Res: Send + 'static,
    E: BatchError,
{
    /// Starts a coalescer that runs batches with `run`, in order of arrival. `of` is the name of the batches in metrics
    /// (`stock`).
    ///
    /// `run` returns one result for each request, in their order, or an error for the batch as a whole, which then must
    /// have had no effect. This function must be called within a tokio runtime.
    pub fn new<F, Fut>(of: &'static str, limits: Limits, run: F) -> Self
    where
        F: Fn(Vec<Req>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<Res, E>>, E>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(limits.queue.max(1));
        let closing = CancellationToken::new();
        let tracker = TaskTracker::new();
        tracker.spawn(Worker::new(of, run, limits).run(waiting, closing.clone()));
        tracker.close();
        Self { queue, closing, worker: Arc::new(tracker) }
    }

    /// Puts a request into the next batch and waits for its answer.
    ///
    /// If the caller stops waiting, a batch in flight continues; a request that has not begun is left out.
    pub async fn submit(&self, request: Req) -> Result<Res, SubmitError<E>> {
        if self.closing.is_cancelled() {
            return Err(SubmitError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { request, since: Instant::now(), origin: Origin::here(), reply }).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => SubmitError::Closed,
            },
        )?;
        answer.await.unwrap_or(Err(SubmitError::Lost))
    }

    /// Refuses new requests, serves the waiting ones, and returns when they are done.
    pub async fn drain(&self) {
        self.closing.cancel();
        self.worker.wait().await;
    }
}
