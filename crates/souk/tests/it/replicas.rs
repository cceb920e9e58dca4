//! Two replicas of a service: one stops or is killed under load, and almost no request fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use souk_testkit::{db::Engine, process::Program, wait};
use tokio::task::JoinSet;

use super::{
    cluster::{Cluster, Ground},
    rest::{Answer, Rest},
};

const LONG: Duration = Duration::from_secs(60);

/// Turns the gateway's cache off, so that reads reach a replica.
fn uncached(service: &str, program: Program) -> Program {
    match service {
        "gateway" => program.env("SOUK_GATEWAY__CACHE__ENABLED", "false"),
        _ => program,
    }
}

/// Failed reads, and when they were sent.
type Failed = Vec<(Instant, Answer)>;

/// Sixteen readers who read a product for four seconds, and the number of their reads.
fn readers(gateway: &str, product: &str) -> (Arc<AtomicUsize>, JoinSet<Failed>) {
    let (read, end) = (Arc::new(AtomicUsize::new(0)), Instant::now() + Duration::from_secs(4));
    let mut readers = JoinSet::new();
    for _ in 0..16 {
        let (client, read, path) = (Rest::anonymous(gateway), read.clone(), format!("/v1/{product}"));
        readers.spawn(async move {
            let mut failed = Vec::new();
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = client.get(&path).await;
                read.fetch_add(1, Ordering::Relaxed);
                if !answer.status.is_success() {
                    failed.push((asked, answer));
                }
            }
            failed
        });
    }
    (read, readers)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_inventory_replicas_stops_and_no_read_fails() {
    let mut cluster = Cluster::on(Ground::new(Engine::Postgres).await, true, uncached).await;
    let admin = cluster.admin().await;
    let product = admin.product("SKU-1", 5).await;
    wait::until(LONG, "both replicas to be up", async || {
        admin.get("/readyz").await.body.to_string().matches(r#""state":"up""#).count() == 4
    })
    .await;
    let (read, readers) = readers(&cluster.gateway, &product);
    wait::until(LONG, "reads", async || read.load(Ordering::Relaxed) > 100).await;
    let (began, before) = (Instant::now(), read.load(Ordering::Relaxed));
    let status = cluster.inventory.terminate(LONG).await;
    println!("one stopped in {:?}", began.elapsed());
    assert!(status.success(), "{}", cluster.inventory.log());
    let failed: Vec<_> = readers.join_all().await.into_iter().flatten().collect();
    let read = read.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{} of {read} reads failed: {:?}", failed.len(), failed.first());
    assert!(read > before + 100, "the other one goes on: {before} and {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_inventory_replicas_is_killed_under_reads() {
    let mut cluster = Cluster::on(Ground::new(Engine::Postgres).await, true, uncached).await;
    let admin = cluster.admin().await;
    let product = admin.product("SKU-1", 5).await;
    for killed in ["one", "the other"] {
        wait::until(LONG, "both replicas to be up", async || {
            let ready = admin.get("/readyz").await.body.to_string();
            ready.matches(r#""state":"up""#).count() == 4
        })
        .await;
        let (read, readers) = readers(&cluster.gateway, &product);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = Instant::now();
        let replica = if killed == "one" { &mut cluster.inventory } else { cluster.replica.as_mut().unwrap() };
        replica.kill().await;
        let failed: Vec<_> = readers.join_all().await.into_iter().flatten().collect();
        let read = read.load(Ordering::Relaxed);
        println!("{killed} killed: {} of {read} reads failed", failed.len());
        assert!(read > 200, "only {read} reads");
        assert!(failed.len() * 1000 < read, "{} of {read} reads failed: {:?}", failed.len(), failed.first());
        assert!(failed.iter().all(|(asked, _)| *asked < at + Duration::from_secs(1)), "{failed:?}");
        let replica = if killed == "one" { &mut cluster.inventory } else { cluster.replica.as_mut().unwrap() };
        replica.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_through_one_gateway_invalidates_the_cache_of_another() {
    let cluster = Cluster::start(Engine::Sqlite).await;
    let (_second, url) = cluster.second_gateway().await;
    let (admin, elsewhere) = (cluster.admin().await, Rest::anonymous(&url));
    let path = format!("/v1/{}", admin.product("SKU-1", 5).await);
    let cached = |answer: &Answer| answer.headers["cache-status"].to_str().unwrap().to_owned();
    wait::until(
        LONG,
        "the second gateway to be ready",
        async || matches!(elsewhere.send(reqwest::Method::GET, &path, None).await, Ok(answer) if answer.status == 200),
    )
    .await;
    for title in ["First", "Second", "Third"] {
        // The response is cached, and fresh for some more seconds.
        wait::until(LONG, "the answer to be kept", async || {
            cached(&elsewhere.get(&path).await).starts_with("souk; hit")
        })
        .await;
        let change = Some(serde_json::json!({"title": title}));
        let changed = admin.send(reqwest::Method::PATCH, &format!("{path}?updateMask=title"), change).await.unwrap();
        assert_eq!(changed.ok()["title"], title);
        let answer = wait::value(LONG, "the change to be seen", async || {
            let answer = elsewhere.get(&path).await;
            (answer.body["title"] == title).then_some(answer)
        })
        .await;
        // It did not expire: otherwise the first new response would have been a refreshed one.
        assert_eq!(cached(&answer), "souk; fwd=uri-miss; stored");
    }
}
