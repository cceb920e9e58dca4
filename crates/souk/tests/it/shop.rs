//! A customer's day over REST: the promises of the contract's options, as a client sees them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use souk_common::ids::ProductId;

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

    // Placed twice with one key: there is one order, and the second response says that it is a repetition.
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

    // A foreign order and one that never existed have the same response except for the name.
    let foreign = bob.get(&format!("/v1/{name}")).await;
    let nowhere = "orders/ord_01hzzzzzzzzzzzzzzzzzzzzzzz";
    let none = bob.get(&format!("/v1/{nowhere}")).await;
    assert_eq!((foreign.problem(403), none.problem(403)), ("ACCESS_DENIED", "ACCESS_DENIED"));
    let detail = |answer: &super::rest::Answer| answer.body["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail(&foreign).replace(name, "X"), detail(&none).replace(nowhere, "X"));
}

/// Every request that the contract accepts can be sent: in a body, if it is too long for a URL.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_products_can_be_asked_for_and_watched() {
    let up = Up::start().await;
    let (admin, anyone) = (up.admin().await, Rest::anonymous(&up.gateway));
    let lantern = admin.product("LANTERN", 10).await;
    let mut names: Vec<String> = (1..1000).map(|_| ProductId::new().name()).collect();
    names.push(lantern.clone());

    let query: Vec<_> = names.iter().map(|name| format!("names={name}")).collect();
    let path = format!("/v1/products:batchGet?allowMissing=true&{}", query.join("&"));
    assert_eq!(anyone.get(&path).await.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let asked = json!({"names": names, "allowMissing": true});
    let answer = anyone.post("/v1/products:batchGet", asked).await;
    // Only responses to GET may be cached.
    assert_eq!((&answer.headers["cache-control"], answer.headers.get("etag")), (&"no-store".parse().unwrap(), None));
    let found = answer.ok();
    assert_eq!(found["products"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["products"][0]["name"], json!(lantern));
    names.push(ProductId::new().name());
    let problem = anyone.post("/v1/products:batchGet", json!({"names": names})).await;
    assert_eq!((problem.problem(400), &problem.body["errors"][0]["field"]), ("FIELD_INVALID", &json!("names")));
    names.pop();

    // A text that must not reach a database.
    let odd = anyone.get("/v1/products:batchGet?skus=a%00b").await;
    assert_eq!((odd.problem(400), &odd.body["errors"][0]["field"]), ("FIELD_INVALID", &json!("skus[0]")));

    let request = admin.request(Method::POST, "/v1/stock:watch").json(&json!({"products": names}));
    let mut stream = request.header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    let first = stream.chunk().await.unwrap().unwrap();
    let first: Value = serde_json::from_slice(&first).unwrap();
    assert!(first["cursor"].is_string(), "{first}");
}
