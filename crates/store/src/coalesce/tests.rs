//! Tests of the coalescer, with batches that the test holds back at a gate.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Duration, Instant, sleep},
};

use super::{BatchError, Coalescer, Limits, SubmitError, worker::LATE};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Own(u32),
    Poison,
    Everyone,
}

impl BatchError for Failure {
    fn strikes_all(&self) -> bool {
        matches!(self, Self::Everyone)
    }
}

/// A coalescer that doubles numbers. Odd numbers below 100 fail alone, 666 fails its batch, 999 fails all, 555 panics.
struct Bench {
    coalescer: Coalescer<u32, u32, Failure>,
    gate: Arc<Semaphore>,
    batches: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let batches = Arc::new(Mutex::new(Vec::new()));
        let (passes, seen) = (Arc::clone(&gate), Arc::clone(&batches));
        let coalescer = Coalescer::new("numbers", limits, move |requests: Vec<u32>| {
            let (passes, seen) = (Arc::clone(&passes), Arc::clone(&seen));
            async move {
                seen.lock().unwrap().push(requests.clone());
                passes.acquire().await.unwrap().forget();
                if requests.contains(&666) {
                    return Err(Failure::Poison);
                }
                if requests.contains(&999) {
                    return Err(Failure::Everyone);
                }
                if requests.contains(&555) {
                    panic!("a fault in the batch");
                }
                Ok(requests
                    .into_iter()
                    .map(|n| if n < 100 && n % 2 == 1 { Err(Failure::Own(n)) } else { Ok(n * 2) })
                    .collect())
            }
        });
        Self { coalescer, gate, batches }
    }

    fn submit(&self, n: u32) -> JoinHandle<Result<u32, SubmitError<Failure>>> {
        let coalescer = self.coalescer.clone();
        tokio::spawn(async move { coalescer.submit(n).await })
    }

    fn open(&self) {
        self.gate.add_permits(10_000);
    }

    fn seen(&self) -> Vec<Vec<u32>> {
        self.batches.lock().unwrap().clone()
    }

    fn waiting(&self) -> usize {
        self.coalescer.queue.max_capacity() - self.coalescer.queue.capacity()
    }

    /// Holds a first batch of `0` in flight and queues `rest` behind it, in order.
    async fn queue_up(&self, rest: &[u32]) -> Vec<JoinHandle<Result<u32, SubmitError<Failure>>>> {
        let mut tasks = vec![self.submit(0)];
        until(|| self.seen().len() == 1).await;
        for (index, n) in rest.iter().enumerate() {
            tasks.push(self.submit(*n));
            until(|| self.waiting() == index + 1).await;
        }
        tasks
    }
}

async fn until(mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "the condition was never met");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_single_request_runs_at_once_in_its_own_batch() {
    let bench = Bench::new(Limits::default());
    bench.open();
    assert_eq!(bench.coalescer.submit(4).await, Ok(8));
    assert_eq!(bench.seen(), [vec![4]]);
}

#[tokio::test]
async fn waiting_requests_form_the_next_batch_in_order_and_each_gets_its_own_answer() {
    let bench = Bench::new(Limits::default());
    let tasks = bench.queue_up(&[2, 3, 4]).await;
    bench.open();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers, [Ok(0), Ok(4), Err(SubmitError::Failed(Failure::Own(3))), Ok(8)]);
    assert_eq!(bench.seen(), [vec![0], vec![2, 3, 4]]);
}

#[tokio::test]
async fn a_batch_is_never_larger_than_its_limit() {
    let bench = Bench::new(Limits { batch: 2, queue: 100, ..Limits::default() });
    let tasks = bench.queue_up(&[2, 4, 6, 8, 10]).await;
    bench.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(bench.seen(), [vec![0], vec![2, 4], vec![6, 8], vec![10]]);
}

#[tokio::test]
async fn a_request_that_fails_its_batch_fails_alone() {
    for (poison, expected) in [(666, SubmitError::Failed(Failure::Poison)), (555, SubmitError::Lost)] {
        let bench = Bench::new(Limits::default());
        let tasks = bench.queue_up(&[2, 4, poison, 6, 8]).await;
        bench.open();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        assert_eq!(answers, [Ok(0), Ok(4), Ok(8), Err(expected), Ok(12), Ok(16)]);
        assert!(bench.seen().len() < 2 * 5, "halving takes fewer runs than each alone twice");
        assert_eq!(bench.coalescer.submit(10).await, Ok(20), "it goes on afterwards");
    }
}

#[tokio::test]
async fn a_failure_of_the_whole_batch_is_not_retried_request_by_request() {
    let bench = Bench::new(Limits::default());
    let tasks = bench.queue_up(&[2, 999, 4]).await;
    bench.open();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    let failed = || Err(SubmitError::Failed(Failure::Everyone));
    assert_eq!(answers, [Ok(0), failed(), failed(), failed()]);
    assert_eq!(bench.seen().len(), 2);
}

#[tokio::test]
async fn a_full_queue_refuses_requests() {
    let bench = Bench::new(Limits { batch: 10, queue: 2, ..Limits::default() });
    let tasks = bench.queue_up(&[2, 4]).await;
    assert_eq!(bench.coalescer.submit(6).await, Err(SubmitError::Overloaded));
    bench.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(bench.coalescer.submit(6).await, Ok(12), "there is room again");
}

#[tokio::test]
async fn a_caller_that_leaves_stops_neither_its_batch_nor_other_requests() {
    let bench = Bench::new(Limits::default());
    let mut tasks = bench.queue_up(&[2, 4, 6]).await;
    // One request is in flight, the other has not begun.
    let (flying, queued) = (tasks.remove(0), tasks.remove(1));
    flying.abort();
    queued.abort();
    assert!(flying.await.unwrap_err().is_cancelled());
    assert!(queued.await.unwrap_err().is_cancelled());
    bench.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(bench.seen(), [vec![0], vec![2, 6]]);
}

#[tokio::test]
async fn requests_of_callers_who_left_are_not_retried() {
    let bench = Bench::new(Limits::default());
    let mut tasks = bench.queue_up(&[2, 666, 4, 6]).await;
    bench.gate.add_permits(1);
    until(|| bench.seen().len() == 2).await;
    let left = tasks.pop().unwrap();
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    bench.open();
    for task in tasks {
        let _ = task.await.unwrap();
    }
    assert_eq!(bench.seen(), [vec![0], vec![2, 666, 4, 6], vec![2, 666], vec![2], vec![666], vec![4]]);
}

#[tokio::test]
async fn a_slow_batch_does_not_block_the_next_one() {
    let overlap_after = Duration::from_millis(10);
    let bench = Bench::new(Limits { overlap_after: Some(overlap_after), ..Limits::default() });
    let mut tasks = Vec::new();
    // All late batches wait at the gate.
    for n in 0..LATE {
        tasks.push(bench.submit(100));
        until(|| bench.seen().len() == n + 1).await;
    }
    tasks.push(bench.submit(102));
    until(|| bench.waiting() == 1).await;
    sleep(10 * overlap_after).await;
    assert_eq!(bench.seen().len(), LATE, "there is an end to it");
    bench.gate.add_permits(1);
    until(|| bench.seen().len() == LATE + 1).await;
    bench.open();
    bench.coalescer.drain().await;
    let last = tasks.pop().unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(200));
    }
    assert_eq!(last.await.unwrap(), Ok(204));
}

#[tokio::test]
async fn draining_serves_waiting_requests_and_refuses_new_ones() {
    let bench = Bench::new(Limits { batch: 1, queue: 100, ..Limits::default() });
    let tasks = bench.queue_up(&[2, 4, 6]).await;
    let drained = tokio::spawn({
        let coalescer = bench.coalescer.clone();
        async move { coalescer.drain().await }
    });
    until(|| bench.coalescer.closing.is_cancelled()).await;
    assert_eq!(bench.coalescer.submit(8).await, Err(SubmitError::Closed));
    assert!(!drained.is_finished(), "requests are still waiting");
    bench.open();
    drained.await.unwrap();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(bench.seen(), [vec![0], vec![2], vec![4], vec![6]]);
}

#[tokio::test]
async fn the_worker_ends_when_the_last_handle_is_dropped() {
    let bench = Bench::new(Limits::default());
    bench.open();
    assert_eq!(bench.coalescer.submit(2).await, Ok(4));
    let worker = Arc::clone(&bench.coalescer.worker);
    drop(bench);
    until(|| worker.is_empty()).await;
}
