//! Services are killed without warning while orders are placed: none is lost, doubled or oversold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::Value;
use souk_testkit::{db::Engine, wait};
use tokio::task::JoinSet;

use super::{
    cluster::Cluster,
    rest::{Rest, order},
};

/// Every order is final this long after the last restart (the promise of DESIGN.md's recovery).
const RECOVERY: Duration = Duration::from_secs(30);

/// `SOUK_TEST_KILL_ROUNDS` and `SOUK_TEST_KILL_ORDERS` make it longer.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_under_orders_sqlite() {
    kill_under_orders(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_under_orders_postgres() {
    kill_under_orders(Engine::Postgres).await;
}

async fn kill_under_orders(engine: Engine) {
    let orders = setting("SOUK_TEST_KILL_ORDERS", 300);
    for round in 0..setting("SOUK_TEST_KILL_ROUNDS", 1) {
        one_round(engine, round, orders).await;
    }
}

async fn one_round(engine: Engine, round: usize, orders: usize) {
    let mut cluster = Cluster::start(engine).await;
    let admin = cluster.admin().await;
    // The last one sells out in the middle of it all.
    let mut products = Vec::new();
    for (index, stock) in [1_000_000, 1_000_000, 1_000_000, orders as i64 / 10].into_iter().enumerate() {
        products.push(admin.product(&format!("SKU-{index}"), stock).await);
    }
    let customer = Rest::anonymous(&cluster.gateway).customer("ann").await;

    let (next, placed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut buyers = JoinSet::new();
    for _ in 0..16 {
        let (customer, products, next, placed) = (customer.clone(), products.clone(), next.clone(), placed.clone());
        buyers.spawn(async move {
            let mut acknowledged = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= orders {
                    return acknowledged;
                }
                let items = [(products[number % 3].as_str(), 1), (products[(number % 5).min(3)].as_str(), 2)];
                let token = if number % 17 == 0 { "tok_declined" } else { "tok_approved" };
                acknowledged.push(place(&customer, &order(&format!("{round}-{number}"), &items, token)).await);
                placed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let started = Instant::now();
    let mut kills = 0;
    // At moments spread over the whole run, whatever its speed: after each so many orders, the order service,
    // then the inventory service.
    for part in 1..=4 {
        let mark = orders * part / 5;
        wait::until(Duration::from_secs(600), "more orders", async || placed.load(Ordering::Relaxed) >= mark).await;
        let victim = if part % 2 == 1 { &mut cluster.order } else { &mut cluster.inventory };
        victim.kill().await;
        victim.restart().await;
        kills += 1;
    }
    let restarted = Instant::now();
    let acknowledged: Vec<Value> = buyers.join_all().await.into_iter().flatten().collect();
    cluster.ready().await;
    wait::until(
        RECOVERY.saturating_sub(restarted.elapsed()).max(Duration::from_secs(5)),
        "every order to be final",
        async || {
            let pending = admin.get("/v1/orders?filter=state%20%3D%20STATE_PENDING").await;
            pending.status == 200 && pending.body["orders"].as_array().is_some_and(Vec::is_empty)
        },
    )
    .await;
    println!(
        "{engine:?} round {round}: {orders} orders, {kills} kills in {:.1} s; all final {:.1} s after the last restart",
        started.elapsed().as_secs_f64(),
        restarted.elapsed().as_secs_f64()
    );

    // Every acknowledged order is there, as it was acknowledged, and there are no others.
    assert_eq!(acknowledged.len(), orders);
    for told in &acknowledged {
        let found = customer.get(&format!("/v1/{}", told["name"].as_str().unwrap())).await.ok();
        assert_eq!(found["state"], told["state"], "{told}");
        assert_eq!(found["total"], told["total"], "{told}");
    }
    let mut names: Vec<_> = acknowledged.iter().map(|order| order["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), orders, "two requests were told of one order");
    assert_eq!(count(&admin).await, orders);
    let states = |state: &str| acknowledged.iter().filter(|order| order["state"] == state).count();
    assert!(states("STATE_CONFIRMED") > 0 && states("STATE_REJECTED") > 0);
    assert_eq!(states("STATE_CONFIRMED") + states("STATE_REJECTED"), orders);
    cluster.verify().await;
}

/// Places an order as an app should: the same request again until there is an answer.
async fn place(customer: &Rest, body: &Value) -> Value {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(90) {
        if let Ok(answer) = customer.send(Method::POST, "/v1/orders", Some(body.clone())).await {
            if answer.status.is_success() {
                return answer.body;
            }
            assert!(matches!(answer.status.as_u16(), 409 | 503 | 504), "{answer:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no answer to an order within 90 s: {body}")
}

async fn count(admin: &Rest) -> usize {
    let (mut count, mut token) = (0, String::new());
    loop {
        let page = admin.get(&format!("/v1/orders?pageSize=500&pageToken={token}")).await.ok();
        count += page["orders"].as_array().map_or(0, Vec::len);
        token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return count;
        }
    }
}
