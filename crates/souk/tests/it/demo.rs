//! The demo shop, set up twice in a real souk.

use serde_json::Value;
use souk_testkit::db::Engine;

use super::{
    cluster::{Up, UpOn, souk},
    rest::Rest,
};

/// Runs `souk demo` against this souk. Returns its output.
async fn demo(up: &Up) -> String {
    let (status, log) = souk().args(["demo", "--data-dir"]).arg(up.folder.path()).run().await;
    assert!(status.success(), "{log}\n{}", up.process.log());
    log
}

/// All entries of a list, from all pages.
async fn all(rest: &Rest, what: &str) -> Vec<Value> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = rest.get(&format!("/v1/{what}?pageSize=500&pageToken={token}")).await.ok();
        found.extend(page[what].as_array().unwrap().iter().cloned());
        token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            return found;
        }
    }
}

/// Everything that the demo creates, with the stock of every product.
async fn shop(admin: &Rest) -> Vec<Value> {
    let mut found = Vec::new();
    for what in ["products", "locations", "users", "orders"] {
        found.extend(all(admin, what).await);
    }
    for product in all(admin, "products").await {
        found.push(admin.get(&format!("/v1/{}/stock", product["name"].as_str().unwrap())).await.ok());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_fills_a_shop_once_sqlite() {
    fills_a_shop_once(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_fills_a_shop_once_postgres() {
    fills_a_shop_once(Engine::Postgres).await;
}

async fn fills_a_shop_once(engine: Engine) {
    // With the default rate limits, which a newcomer has.
    let on = UpOn::start(engine, |program| program.env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "true")).await;
    let log = demo(&on.up).await;
    let gateway = &on.up.gateway;
    for text in ["40 products", "stock at 2 locations", "8 customers", "20 orders", &format!("{gateway}/docs")] {
        assert!(log.contains(text), "`{text}` is not in\n{log}");
    }
    let admin = on.up.admin().await;
    let orders = all(&admin, "orders").await;
    let count = |field: &str, value: &str| orders.iter().filter(|order| order[field] == value).count();
    assert_eq!(count("state", "STATE_CONFIRMED"), 16);
    assert_eq!(count("state", "STATE_CANCELLED"), 2);
    assert_eq!(count("state", "STATE_REJECTED"), 2);
    assert_eq!(count("fulfillmentState", "FULFILLMENT_STATE_SHIPPED"), 8);
    assert_eq!(count("fulfillmentState", "FULFILLMENT_STATE_PARTIALLY_SHIPPED"), 1);
    let refunded = orders.iter().filter(|order| order["state"] == "STATE_CONFIRMED");
    let refunded =
        refunded.filter(|order| order["payment"]["refunded"]["units"].as_str().is_some_and(|units| units != "0"));
    assert_eq!(refunded.count(), 2);
    let low = admin.get("/v1/stock:low").await.ok();
    assert!(low.to_string().contains("DEMO-SPICE-BOX"), "{low:#}");

    let before = shop(&admin).await;
    let log = demo(&on.up).await;
    assert!(log.contains("20 orders"), "{log}");
    assert_eq!(shop(&admin).await, before);
    on.verify().await;
}
