//! The wall clock is set while souk runs, as after a machine slept. Orders continue within seconds. The monotonic
//! clock, which measures timeouts, is not changed.

use std::time::{Duration, Instant};

use souk_testkit::{clock::Clock, db::Engine, wait};

use super::{
    cluster::{Cluster, Ground, UpOn},
    rest::{Rest, order},
};

/// A few seconds, doubled for a busy machine. Orders once stopped for a minute, because a service token was renewed by
/// one clock and expired by the other.
const SOON: Duration = Duration::from_secs(10);

/// Places an order and waits until it is confirmed. Returns how long that took.
async fn confirmed(customer: &Rest, product: &str, key: &str) -> Duration {
    confirmed_with(customer, product, key, "tok_approved").await
}

async fn confirmed_with(customer: &Rest, product: &str, key: &str, token: &str) -> Duration {
    let began = Instant::now();
    wait::until(SOON, &format!("the order {key} to be confirmed"), async || {
        let answer = customer.post("/v1/orders", order(key, &[(product, 1)], token)).await;
        if !answer.status.is_success() {
            println!("{key}: {} {}", answer.status, answer.body);
        }
        answer.status.is_success() && answer.body["state"] == "STATE_CONFIRMED"
    })
    .await;
    began.elapsed()
}

async fn orders_go_on(engine: Engine) {
    let clock = Clock::new();
    let souk = UpOn::start(engine, |program| clock.of(program).env("SOUK_ORDER__PAYMENT__SLOW_DELAY", "1s")).await;
    let product = souk.up.admin().await.product("LAMP", 1_000).await;
    let shop = Rest::anonymous(&souk.up.gateway);
    let ann = shop.customer("ann").await;
    confirmed(&ann, &product, "before").await;
    // The clock runs ahead of the machine by these seconds, one after the other: steps of 200 s, 300 s and 5 minutes
    // back, twice.
    for (at, ahead) in [200, 500, 200, -100].into_iter().enumerate() {
        // One order is running while the clock is set.
        let slow = order(&format!("slow-{at}"), &[(&product, 1)], "tok_slow");
        let slow = tokio::spawn({
            let ann = ann.clone();
            async move { ann.post("/v1/orders", slow).await }
        });
        confirmed(&ann, &product, &format!("just-before-{at}")).await;
        clock.set(ahead);
        let took = confirmed(&ann, &product, &format!("after-{at}")).await;
        println!("{engine}: {took:?} after the clock was set to {ahead:+} s");
        let bob = shop.customer(&format!("bob{at}")).await;
        confirmed(&bob, &product, &format!("bob-{at}")).await;
        slow.await.unwrap();
        confirmed_with(&ann, &product, &format!("slow-{at}"), "tok_slow").await;
    }
    let status = souk_ends(souk).await;
    assert_eq!(status, Some(0));
}

/// Stops souk. Its promises must hold whatever the clock showed.
async fn souk_ends(mut souk: UpOn) -> Option<i32> {
    let status = souk.up.process.terminate(Duration::from_secs(30)).await;
    souk.verify().await;
    status.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_continue_when_the_clock_is_set_sqlite() {
    orders_go_on(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_continue_when_the_clock_is_set_postgres() {
    orders_go_on(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_on_hosts_whose_clocks_differ_by_minutes_work_together() {
    let clock = Clock::new();
    // Uses PostgreSQL, as an installation on several hosts does.
    let cluster = Cluster::on(Ground::new(Engine::Postgres).await, false, |service, program| match service {
        "order" => clock.of(program),
        _ => program,
    })
    .await;
    let product = cluster.admin().await.product("LAMP", 100).await;
    let ann = Rest::anonymous(&cluster.gateway).customer("ann").await;
    for ahead in [-290, 290] {
        clock.set(ahead);
        let took = confirmed(&ann, &product, &format!("ahead{ahead}")).await;
        println!("{took:?} with the order service {ahead:+} s ahead of the others");
    }
    cluster.verify().await;
}
