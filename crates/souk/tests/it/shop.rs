//! A customer's day over REST: what the contract's options promise, seen from outside.

use reqwest::Method;
use serde_json::json;

use super::{
    cluster::Up,
    rest::{Rest, order},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_day_in_the_shop() {
    let up = Up::start().await;
    let admin = up.admin().await;
    let anyone = Rest::anonymous(&up.gateway);
    let (ann, bob) = (anyone.customer("ann").await, anyone.customer("bob").await);
    let me = ann.get("/v1/users/me").await.ok();
    let name = me["name"].as_str().unwrap();
    let path = format!("/v1/{name}?updateMask=displayName");
    let renamed = ann.send(Method::PATCH, &path, Some(json!({"displayName": "Ann"}))).await.unwrap();
    assert_eq!(renamed.ok()["displayName"], "Ann");

    let lantern = admin.product("LANTERN", 10).await;
    let listed = anyone.get("/v1/products?pageSize=5&filter=price%20%3C%3D%2015.00&orderBy=sku").await.ok();
    assert_eq!((&listed["products"][0]["name"], &listed["nextPageToken"]), (&json!(lantern), &json!("")));
    let batch = anyone.get("/v1/products:batchGet?skus=lantern&skus=none&allowMissing=true").await.ok();
    assert_eq!(batch["products"].as_array().unwrap().len(), 1);
    let available = async || anyone.get(&format!("/v1/{lantern}/availability")).await.ok();
    assert_eq!(available().await, json!({"available": "10", "unlimited": false}));

    // Placed twice with one key: one order, and the second answer says so.
    let first = ann.post("/v1/orders", order("cart-1", &[(&lantern, 3)], "tok_approved")).await;
    let again = ann.post("/v1/orders", order("cart-1", &[(&lantern, 3)], "tok_approved")).await;
    let replayed = [&first, &again].map(|answer| answer.headers.contains_key("idempotent-replayed"));
    assert_eq!(replayed, [false, true]);
    let placed = first.ok();
    assert_eq!(placed["state"], "STATE_CONFIRMED", "{placed}");
    assert_eq!(placed["total"], json!({"currencyCode": "EUR", "units": "37", "nanos": 500_000_000}));
    assert_eq!(again.ok(), placed);
    let other = ann.post("/v1/orders", order("cart-1", &[(&lantern, 4)], "tok_approved")).await;
    assert_eq!(other.problem(422), "IDEMPOTENCY_KEY_REUSED");

    let name = placed["name"].as_str().unwrap();
    let timeline = ann.get(&format!("/v1/{name}/timelineEntries")).await.ok();
    assert!(timeline["timelineEntries"].as_array().unwrap().len() >= 4, "{timeline}");
    let cancelled = ann.post(&format!("/v1/{name}:cancel"), json!({"reason": "changed my mind"})).await.ok();
    assert_eq!((&cancelled["state"], &available().await["available"]), (&json!("STATE_CANCELLED"), &json!("10")));

    // Someone else's order and one that never was: the same answer but for the name.
    let foreign = bob.get(&format!("/v1/{name}")).await;
    let nowhere = "orders/ord_01hzzzzzzzzzzzzzzzzzzzzzzz";
    let none = bob.get(&format!("/v1/{nowhere}")).await;
    assert_eq!((foreign.problem(403), none.problem(403)), ("ACCESS_DENIED", "ACCESS_DENIED"));
    let detail = |answer: &super::rest::Answer| answer.body["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail(&foreign).replace(name, "X"), detail(&none).replace(nowhere, "X"));
}
