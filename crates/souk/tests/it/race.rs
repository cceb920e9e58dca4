//! Concurrent orders of the last pieces, and one request that is sent many times at once.

use std::collections::HashSet;

use souk_testkit::db::Engine;
use tokio::task::JoinSet;

use super::{
    cluster::Cluster,
    rest::{Rest, order},
};

#[tokio::test(flavor = "multi_thread")]
async fn races_sqlite() {
    races(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn races_postgres() {
    races(Engine::Postgres).await;
}

async fn races(engine: Engine) {
    let cluster = Cluster::start(engine).await;
    let admin = cluster.admin().await;
    let customer = Rest::anonymous(&cluster.gateway).customer("ann").await;

    // 64 buyers order 10 pieces.
    let scarce = admin.product("SCARCE", 10).await;
    let mut buyers = JoinSet::new();
    for number in 0..64 {
        let (customer, body) = (customer.clone(), order(&format!("scarce-{number}"), &[(&scarce, 1)], "tok_approved"));
        buyers.spawn(async move { customer.post("/v1/orders", body).await.ok() });
    }
    let answers = buyers.join_all().await;
    let confirmed = answers.iter().filter(|order| order["state"] == "STATE_CONFIRMED").count();
    let short = answers.iter().filter(|order| order["rejection"]["reason"] == "OUT_OF_STOCK").count();
    assert_eq!((confirmed, short), (10, 54));
    let stock = admin.get(&format!("/v1/{scarce}/stock")).await.ok();
    assert_eq!(stock["levels"][0]["onHand"], "0");
    assert_eq!(stock["levels"][0]["reserved"], "0");

    // One request is sent 50 times at once.
    let plenty = admin.product("PLENTY", 1000).await;
    let mut same = JoinSet::new();
    for _ in 0..50 {
        let (customer, body) = (customer.clone(), order("the-same", &[(&plenty, 3)], "tok_approved"));
        same.spawn(async move { customer.post("/v1/orders", body).await });
    }
    let answers = same.join_all().await;
    let mut told = HashSet::new();
    for answer in &answers {
        match answer.status.as_u16() {
            200 => drop(told.insert(answer.body.to_string())),
            409 => assert_eq!(answer.body["reason"], "REQUEST_IN_PROGRESS", "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(told.len(), 1, "{told:?}");
    let again = customer.post("/v1/orders", order("the-same", &[(&plenty, 3)], "tok_approved")).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(told.contains(&again.ok().to_string()));
    let other = customer.post("/v1/orders", order("the-same", &[(&plenty, 4)], "tok_approved")).await;
    assert_eq!(other.problem(422), "IDEMPOTENCY_KEY_REUSED");
    let stock = admin.get(&format!("/v1/{plenty}/stock")).await.ok();
    assert_eq!(stock["levels"][0]["onHand"], "997");
    cluster.verify().await;
}
