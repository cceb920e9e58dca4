//! A job goes on after failures, panics and hangs, and stops at shutdown.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Jobs, Status};

const SOON: Duration = Duration::from_secs(20);

async fn until(jobs: &Jobs, reached: impl Fn(&Status) -> bool) -> Status {
    tokio::time::timeout(SOON, async {
        loop {
            let status = jobs.statuses().remove(0);
            if reached(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn goes_on_after_an_error_a_panic_and_a_hang() {
    let jobs = Jobs::new("test", CancellationToken::new());
    let turn = Arc::new(AtomicU64::new(0));
    let limit = Duration::from_millis(50);
    jobs.every("odd", Duration::from_millis(1), limit, move || {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        async move {
            match turn {
                0 => Err("no luck"),
                1 => panic!("on purpose"),
                2 => std::future::pending().await,
                _ => Ok(7),
            }
        }
    });
    let status = until(&jobs, |status| status.last_success.is_some()).await;
    assert_eq!(status.failures, 3);
    assert_eq!(status.last_error, None);
    assert_eq!(status.done, 7 * (status.runs - 3));
}

#[tokio::test]
async fn tells_why_the_last_run_failed() {
    let jobs = Jobs::new("test", CancellationToken::new());
    jobs.every("sad", Duration::from_millis(1), SOON, || async { Err::<u64, _>("no database") });
    let status = until(&jobs, |status| status.failures > 0).await;
    assert_eq!(status.last_error.as_deref(), Some("no database"));
    assert_eq!(status.last_success, None);
}

#[tokio::test]
async fn shutdown_waits_for_the_run_under_way_and_begins_no_other() {
    let shutdown = CancellationToken::new();
    let jobs = Jobs::new("test", shutdown.clone());
    let ended = Arc::new(AtomicU64::new(0));
    let count = ended.clone();
    let token = shutdown.clone();
    jobs.every("slow", Duration::ZERO, SOON, move || {
        let (count, token) = (count.clone(), token.clone());
        async move {
            token.cancelled().await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(1)
        }
    });
    until(&jobs, |status| status.last_run.is_some()).await;
    shutdown.cancel();
    tokio::time::timeout(SOON, jobs.stopped()).await.unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}
