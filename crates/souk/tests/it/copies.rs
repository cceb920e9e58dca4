//! Two copies of a service: one is killed under load, and hardly anyone notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use souk_testkit::db::Engine;
use tokio::task::JoinSet;

use super::{cluster::Cluster, rest::Rest};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_inventories_is_killed_under_reads() {
    let mut cluster = Cluster::with_two_inventories(Engine::Postgres).await;
    let product = cluster.admin().await.product("SKU-1", 5).await;
    for killed in ["one", "the other"] {
        let (read, end) = (Arc::new(AtomicUsize::new(0)), Instant::now() + Duration::from_secs(4));
        let mut readers = JoinSet::new();
        for _ in 0..16 {
            let (client, read, path) = (Rest::anonymous(&cluster.gateway), read.clone(), format!("/v1/{product}"));
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
        tokio::time::sleep(Duration::from_secs(1)).await;
        let at = Instant::now();
        let copy = if killed == "one" { &mut cluster.inventory } else { cluster.copy.as_mut().unwrap() };
        copy.kill().await;
        let failed: Vec<_> = readers.join_all().await.into_iter().flatten().collect();
        let read = read.load(Ordering::Relaxed);
        println!("{killed} killed: {} of {read} reads failed", failed.len());
        assert!(read > 200, "only {read} reads");
        assert!(failed.len() * 1000 < read, "{} of {read} reads failed: {:?}", failed.len(), failed.first());
        assert!(failed.iter().all(|(asked, _)| *asked < at + Duration::from_secs(1)), "{failed:?}");
        let copy = if killed == "one" { &mut cluster.inventory } else { cluster.copy.as_mut().unwrap() };
        copy.restart().await;
        cluster.ready().await;
    }
}
