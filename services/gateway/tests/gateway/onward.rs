//! Calls to backends: replicas of a service die, hang, stop or come back under load, and many callers call at once.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use souk_testkit::{proxy::Proxy, wait};
use tokio_util::sync::CancellationToken;

use crate::{
    boot::{Booted, boot_with, contract},
    echo,
};

const LONG: Duration = Duration::from_secs(10);
/// The number of concurrent readers.
const READERS: usize = 16;
/// The minimum number of reads of a test.
const ENOUGH: usize = 200;
const READ: &str = "/test/v1/things/1";
/// On a fast machine, the readers would exhaust their budget.
const UNLIMITED: (&str, &str) = ("gateway.rate_limits.enabled", "false");

/// A gateway in front of two replicas of the echo server, each behind a proxy.
async fn two_replicas(settings: &[(&str, &str)]) -> (Booted, Proxy, Proxy) {
    let (first, _) = echo::serve(contract()).await;
    let (second, _) = echo::serve(contract()).await;
    let (first, second) = (Proxy::before(&first).await, Proxy::before(&second).await);
    let both = format!("http://{}, http://{}", first.address(), second.address());
    let souk = boot_with(&[settings, &[UNLIMITED]].concat(), |_| both).await;
    both_are_up(&souk).await;
    (souk, first, second)
}

/// The addresses as an administrator sees them.
async fn addresses(souk: &Booted) -> Vec<serde_json::Value> {
    let ready = souk.get_as("/readyz", &souk.keys.token(&["ADMIN"], 60)).await.json();
    ready["backends"][0]["addresses"].as_array().unwrap().clone()
}

async fn both_are_up(souk: &Booted) {
    wait::until(LONG, "both replicas to be up", async || {
        let addresses = addresses(souk).await;
        addresses.len() == 2 && addresses.iter().all(|address| address["state"] == "up")
    })
    .await;
}

/// The results of the readers.
#[derive(Default)]
struct Load {
    read: usize,
    slowest: Duration,
    /// The time after the fault, and the error.
    failed: Vec<(Duration, String)>,
}

/// Reads all the time, and often enough on a slow machine. `fault` is called in the middle.
async fn under_load(souk: &Booted, method: &str, path: &str, fault: impl FnOnce()) -> Load {
    const BEFORE: Duration = Duration::from_millis(500);
    const AFTER: Duration = Duration::from_millis(2500);
    let load = RefCell::new(Load::default());
    let started = Instant::now();
    let reader = async || {
        while started.elapsed() < BEFORE + AFTER || (load.borrow().read <= ENOUGH && started.elapsed() < 2 * LONG) {
            let asked = started.elapsed();
            let answer = souk.json(method, path, if method == "GET" { "" } else { "{}" }).await;
            let mut load = load.borrow_mut();
            load.read += 1;
            load.slowest = load.slowest.max(started.elapsed() - asked);
            if answer.status != StatusCode::OK {
                load.failed.push((asked.saturating_sub(BEFORE), answer.text));
            }
        }
    };
    let fault = async {
        tokio::time::sleep(BEFORE).await;
        fault();
    };
    tokio::join!(join_all((0..READERS).map(|_| reader())), fault);
    load.into_inner()
}

impl Load {
    #[track_caller]
    fn hardly_failed(&self) {
        assert!(self.read > ENOUGH, "only {} reads", self.read);
        let share = self.failed.len() as f64 / self.read as f64;
        assert!(share < 0.001, "{} of {} reads failed: {:?}", self.failed.len(), self.read, self.failed.first());
        let late: Vec<_> = self.failed.iter().filter(|(since, _)| *since > Duration::from_secs(1)).collect();
        assert!(late.is_empty(), "{late:?}");
    }
}

#[tokio::test]
async fn one_of_two_replicas_is_killed_under_load() {
    let (souk, first, _second) = two_replicas(&[]).await;
    // Its port refuses connections from now on.
    under_load(&souk, "GET", READ, || drop(first)).await.hardly_failed();
    souk.get("/readyz").await.ok();
}

#[tokio::test]
async fn a_replica_whose_connections_are_cut_comes_back_and_serves_alone() {
    let (souk, first, second) = two_replicas(&[]).await;
    under_load(&souk, "GET", READ, || first.cut()).await.hardly_failed();
    first.restore();
    both_are_up(&souk).await;
    under_load(&souk, "GET", READ, || second.cut()).await.hardly_failed();
}

#[tokio::test]
async fn reads_do_not_wait_for_a_silent_replica() {
    let (souk, first, _second) = two_replicas(&[]).await;
    let load = under_load(&souk, "GET", READ, || first.stall()).await;
    load.hardly_failed();
    assert!(load.slowest < Duration::from_secs(3), "a read waited for it: {:?}", load.slowest);
    let started = Instant::now();
    for _ in 0..50 {
        souk.get(READ).await.ok();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "it is still called: {:?}", started.elapsed());
    first.restore();
    both_are_up(&souk).await;
}

#[tokio::test]
async fn a_replica_that_stops_gracefully_fails_no_call() {
    let stop = CancellationToken::new();
    let (stopping, _) = echo::serve_until(contract(), stop.clone()).await;
    let souk = boot_with(&[UNLIMITED], |other| format!("{stopping},{other}")).await;
    // The method is not idempotent: a call is retried only if the replica cannot have begun with it.
    let load = under_load(&souk, "PATCH", READ, || stop.cancel()).await;
    assert!(
        load.read > ENOUGH && load.failed.is_empty(),
        "{} of {}: {:?}",
        load.failed.len(),
        load.read,
        load.failed.first()
    );
}

#[tokio::test]
async fn a_call_that_may_have_taken_effect_is_not_retried() {
    let (souk, first, _second) = two_replicas(&[]).await;
    // Calls of a method that is not idempotent, which hang on both replicas.
    let hanging: Vec<_> = (0..20).map(|_| tokio::spawn(souk.request("GET", "/test/v1/fail/wait").send())).collect();
    let ended = || hanging.iter().filter(|call| call.is_finished()).count();
    // They have arrived once as many later calls were answered.
    for _ in 0..20 {
        souk.get(READ).await.ok();
    }
    assert_eq!(ended(), 0);
    first.cut();
    wait::until(LONG, "the calls on the replica that was cut to fail", async || ended() > 0).await;
    for _ in 0..20 {
        souk.get(READ).await.ok();
    }
    assert!(ended() < 20, "those on the other replica go on");
    for call in hanging {
        if call.is_finished() {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        } else {
            call.abort();
        }
    }
}

#[tokio::test]
async fn without_replicas_calls_fail_at_once_and_the_first_one_back_is_called() {
    let (souk, first, second) = two_replicas(&[]).await;
    first.cut();
    second.cut();
    wait::until(LONG, "both replicas to be gone", async || souk.get(READ).await.status != StatusCode::OK).await;
    let started = Instant::now();
    for answer in join_all((0..50).map(|_| souk.get(READ))).await {
        answer.problem(503, "SERVICE_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // A report is cached for a moment, so that many requests make one check.
    wait::until(LONG, "it to be said", async || {
        let gone = json!([{"name": "souk.test.v1", "ready": false, "state": "UNREACHABLE"}]);
        souk.get("/readyz").await.json()["backends"] == gone
    })
    .await;
    second.restore();
    let restored = Instant::now();
    wait::until(LONG, "a replica to be called", async || souk.get(READ).await.status == StatusCode::OK).await;
    assert!(restored.elapsed() < Duration::from_secs(2), "the breaker stayed open: {:?}", restored.elapsed());
    wait::until(LONG, "the gateway to be ready", async || souk.get("/readyz").await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_dns_name_may_have_several_addresses_of_which_some_are_down() {
    // If the name also resolves to ::1, nothing listens there.
    let souk = boot_with(&[], |address| address.replace("127.0.0.1", "localhost")).await;
    for _ in 0..20 {
        souk.get(READ).await.ok();
    }
    souk.get("/readyz").await.ok();
    let souk = boot_with(&[], |_| "http://no-such-host.invalid:9000".into()).await;
    souk.get(READ).await.problem(503, "SERVICE_UNAVAILABLE");
}

#[tokio::test]
async fn replicas_that_all_fail_are_not_all_ejected() {
    let (souk, _first, _second) = two_replicas(&[]).await;
    for _ in 0..30 {
        souk.get("/test/v1/fail/14").await.problem(503, "SERVICE_UNAVAILABLE");
    }
    souk.get(READ).await.ok();
    souk.get("/readyz").await.ok();
}

#[tokio::test]
async fn only_administrators_see_the_addresses_of_backends() {
    let (souk, first, second) = two_replicas(&[]).await;
    for token in [None, Some(souk.keys.token(&["STAFF"], 60)), Some(souk.keys.token(&["ADMIN"], -60))] {
        let request = souk.request("GET", "/readyz");
        let ready = souk.send(token.into_iter().fold(request, |request, token| request.bearer_auth(token))).await;
        assert_eq!(ready.ok()["backends"], json!([{"name": "souk.test.v1", "ready": true, "state": "SERVING"}]));
    }
    second.cut();
    wait::until(LONG, "the loss of one to be told", async || {
        let known = addresses(&souk).await;
        known.contains(&json!({"address": first.address().to_string(), "state": "up"}))
            && known.contains(&json!({"address": second.address().to_string(), "state": "down"}))
    })
    .await;
}

#[tokio::test]
async fn each_try_gets_the_remaining_deadline() {
    let (souk, first, _second) = two_replicas(&[("server.deadline", "5s")]).await;
    let left = async || {
        let answer = souk.get(READ).await.ok();
        answer["headers"]["grpc-timeout"].as_str().unwrap().trim_end_matches('m').parse::<u64>().unwrap()
    };
    assert!((1..=5000).contains(&left().await));
    first.stall();
    // Some of these go to the silent replica first, and a moment later to the other one.
    let least = join_all((0..16).map(|_| left())).await.into_iter().min().unwrap();
    assert!((1..=4750).contains(&least), "{least}");
}

#[tokio::test]
async fn no_caller_can_use_all_concurrent_requests() {
    let settings = [("server.max_concurrent_requests", "4"), ("server.deadline", "60s")];
    let souk = boot_with(&settings, |address| address).await;
    let flood: Vec<_> = (0..8).map(|_| tokio::spawn(souk.request("GET", "/test/v1/fail/wait").send())).collect();
    let refused = || flood.iter().filter(|call| call.is_finished()).count();
    wait::until(LONG, "the flood to be refused beyond its share", async || refused() == 6).await;
    souk.get(READ).await.problem(503, "OVERLOADED");
    let user = souk.keys.token(&[], 60);
    souk.get_as("/test/v1/signedIn", &user).await.ok();
    assert_eq!(refused(), 6, "what has its place keeps it");
    for call in flood {
        match call.is_finished() {
            true => assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE),
            false => call.abort(),
        }
    }
}
