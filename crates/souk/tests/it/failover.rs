//! A primary PostgreSQL fails under orders and its standby is promoted: no acknowledged order is lost, and orders succeed
//! again within seconds.

use std::time::{Duration, Instant};

use souk_testkit::{db::TestDatabase, servers::Pair, wait};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    cluster::{Cluster, Ground},
    rest::{Rest, order},
};

const LONG: Duration = Duration::from_secs(60);
/// The promise is 3 s; a busy machine may take longer.
const BACK: Duration = Duration::from_secs(20);

/// What happens to the primary.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Killed,
    ReadOnly,
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_a_standby_is_promoted_after_the_primary_is_killed() {
    failover(Fate::Killed).await;
}

/// The old primary still runs, so connections to it stay open. They must not be used any more.
#[tokio::test(flavor = "multi_thread")]
async fn fault_a_standby_is_promoted_after_the_primary_became_read_only() {
    failover(Fate::ReadOnly).await;
}

/// `SOUK_TEST_FAILOVER_SECONDS` sets its duration.
async fn failover(fate: Fate) {
    let seconds = std::env::var("SOUK_TEST_FAILOVER_SECONDS").unwrap_or_else(|_| "6".into());
    let pair = Pair::start().await.unwrap();
    let databases = ["user", "inventory", "order"].map(|service| format!("souk_{service}"));
    for name in &databases {
        sql(&pair.url("postgres"), &format!("CREATE DATABASE {name}")).await.unwrap();
    }
    let ground = Ground::with(databases.map(|name| TestDatabase::on(pair.url(&name))));
    let cluster = Cluster::on(ground, false, |_, program| program).await;
    let admin = cluster.admin().await;
    let product = admin.product("FAILOVER", 100_000).await;
    let buyer = Rest::anonymous(&cluster.gateway).customer("failover").await;

    let prove = cluster.prove().args(["--duration", &format!("{seconds}s"), "--buyers", "8", "--seed", "4"]);
    let mut prove = prove.deadline(LONG).start().await;
    wait::until(LONG, "orders to be confirmed", async || {
        let enough = "SELECT 1 / (count(*) / 30) FROM orders WHERE state = 'CONFIRMED'";
        sql(&pair.url("souk_order"), enough).await.is_ok()
    })
    .await;
    match fate {
        Fate::Killed => pair.kill_primary().unwrap(),
        Fate::ReadOnly => pair.make_primary_read_only().await.unwrap(),
    }
    wait::until(LONG, "souk not to be ready", async || buyer.get("/readyz").await.status == 503).await;
    let refused = buyer.post("/v1/orders", order("refused", &[(&product, 1)], "tok_approved")).await;
    assert_eq!(refused.problem(503), "SERVICE_UNAVAILABLE");

    let mut orders = Prober::start(&buyer, &product);
    let asked = Instant::now();
    pair.promote().await.unwrap();
    let promoted = Instant::now();
    let first = tokio::time::timeout(BACK, orders.first()).await.expect("no order succeeds on the new primary");
    println!(
        "{fate:?}: promoted after {:?}; the first order succeeded {:?} after that",
        promoted - asked,
        first.saturating_duration_since(promoted)
    );
    wait::until(BACK, "souk to be ready", async || buyer.get("/readyz").await.status == 200).await;
    drop(orders);
    let status = prove.ended(Duration::from_secs(120)).await;
    println!("{}", prove.log());
    assert!(status.success(), "{}\n{}", prove.log(), cluster.logs());
    cluster.verify().await;
}

/// Places an order every 50 ms, without waiting for earlier responses.
struct Prober {
    placed: mpsc::UnboundedReceiver<Instant>,
    _orders: JoinSet<()>,
}

impl Prober {
    fn start(buyer: &Rest, product: &str) -> Self {
        let (done, placed) = mpsc::unbounded_channel();
        let (buyer, product) = (buyer.clone(), product.to_owned());
        let mut orders = JoinSet::new();
        orders.spawn(async move {
            let mut under_way = JoinSet::new();
            for number in 0.. {
                let (buyer, product, done) = (buyer.clone(), product.clone(), done.clone());
                under_way.spawn(async move {
                    let body = order(&format!("probe-{number}"), &[(&product, 1)], "tok_approved");
                    let answer = buyer.send(reqwest::Method::POST, "/v1/orders", Some(body)).await;
                    if answer.is_ok_and(|answer| answer.body["state"] == "STATE_CONFIRMED") {
                        // The test may have ended, so that nobody receives this.
                        let _ = done.send(Instant::now());
                    }
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { placed, _orders: orders }
    }

    /// When the first order was confirmed.
    async fn first(&mut self) -> Instant {
        self.placed.recv().await.unwrap()
    }
}

/// Runs a statement on the server that accepts writes.
async fn sql(url: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let url = format!("{url}?target_session_attrs=read-write");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(statement).await
}
