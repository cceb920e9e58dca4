//! Cached responses over the wire. The echo server's response contains the request id of its call, so equal responses
//! come from one call.

use std::{collections::HashSet, time::Duration};

use souk_testkit::{servers, wait};

use crate::{
    boot::{Answer, boot, boot_with},
    limits::redis,
};

const LONG: Duration = Duration::from_secs(60);

/// Identifies the call to the service that produced a response.
fn call(answer: &Answer) -> String {
    answer.ok()["headers"]["x-request-id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn equal_requests_share_one_cached_response_however_they_are_written() {
    let souk = boot().await;
    let first = souk.get("/test/v1/kept/a?tags=x&pageSize=3").await;
    assert_eq!((first.header("cache-status"), first.header("age")), ("souk; fwd=uri-miss; stored", ""));
    for path in [
        "/test/v1/kept/a?tags=x&pageSize=3",
        "/test/v1/kept/%61?pageSize=3&tags=x",
        "/test/v1/kept/a?page_size=3&tags=x",
    ] {
        // A request with `no-cache` gets the cached response, too.
        let again = souk.send(souk.request("GET", path).header("cache-control", "no-cache")).await;
        assert_eq!(call(&again), call(&first), "{path}");
        assert!(again.header("cache-status").starts_with("souk; hit; ttl="), "{again:?}");
        assert!(again.header("age").parse::<u64>().unwrap() < 60, "{again:?}");
        assert_eq!(again.text, first.text);
        assert_eq!(again.header("content-type"), first.header("content-type"));
    }
    let head = souk.send(souk.request("HEAD", "/test/v1/kept/a?tags=x&pageSize=3")).await;
    assert_eq!(head.header("content-length"), first.text.len().to_string());
    assert!(head.header("cache-status").starts_with("souk; hit"), "{head:?}");

    let other = souk.get("/test/v1/kept/a?tags=y&pageSize=3").await;
    assert_ne!(call(&other), call(&first));
    // Another part of the same response.
    assert_eq!(souk.get("/test/v1/kept/a/tags?tags=x&pageSize=3").await.ok(), serde_json::json!(["x"]));
}

#[tokio::test]
async fn cached_responses_are_fetched_anonymously_and_only_for_permitted_callers() {
    let souk = boot().await;
    let token = souk.keys.token(&["ADMIN"], 600);
    let first = souk.get_as("/test/v1/kept/a", &token).await;
    assert!(first.ok()["headers"].get("authorization").is_none(), "{first:?}");
    assert_eq!(call(&souk.get("/test/v1/kept/a").await), call(&first));
    souk.get_as("/test/v1/kept/a", "not.a.token").await.problem(401, "TOKEN_INVALID");

    // Responses that are not public are not cached, not even for the same caller.
    let mine = souk.get_as("/test/v1/read", &token).await;
    assert!(mine.ok()["headers"].get("authorization").is_some());
    assert_eq!(mine.header("cache-status"), "");
    assert_ne!(call(&souk.get_as("/test/v1/read", &token).await), call(&mine));
}

#[tokio::test]
async fn many_equal_requests_at_once_make_one_call() {
    let souk = boot().await;
    let all = futures::future::join_all((0..200).map(|_| souk.get("/test/v1/kept/a"))).await;
    let calls: HashSet<String> = all.iter().map(call).collect();
    assert_eq!(calls.len(), 1);
    let misses = all.iter().filter(|answer| answer.header("cache-status") == "souk; fwd=uri-miss; stored").count();
    assert_eq!(misses, 1);
}

#[tokio::test]
async fn a_change_through_the_gateway_is_visible_to_the_next_request() {
    let souk = boot().await;
    let get = async || call(&souk.get("/test/v1/kept/a").await);
    let first = get().await;
    // Refused requests and safe methods do not invalidate.
    souk.json("POST", "/test/v1/everything", r#"{"nope": 1}"#).await.problem(400, "UNKNOWN_FIELD");
    souk.get("/test/v1/signedIn").await.problem(401, "TOKEN_MISSING");
    souk.get("/test/v1/things/1").await.ok();
    assert_eq!(get().await, first);

    souk.json("POST", "/test/v1/everything", r#"{"name": "x"}"#).await.ok();
    let second = get().await;
    assert_ne!(second, first);
    // Over gRPC, too.
    let mut client = tonic::client::Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    let path = "/souk.test.v1.EchoService/Create".parse().unwrap();
    client.unary(tonic::Request::new(Vec::new()), path, crate::grpc::Raw).await.unwrap();
    let third = get().await;
    assert_ne!(third, second);
    // A change that failed may have taken effect, so it invalidates.
    souk.get("/test/v1/fail/internal").await.problem(500, "INTERNAL");
    assert_ne!(get().await, third);
}

#[tokio::test]
async fn nothing_is_cached_if_the_cache_is_off() {
    let souk = boot_with(&[("gateway.cache.enabled", "false")], |address| address).await;
    let first = souk.get("/test/v1/kept/a").await;
    assert_eq!(first.header("cache-status"), "");
    assert_ne!(call(&souk.get("/test/v1/kept/a").await), call(&first));
}

#[tokio::test]
async fn gateways_share_responses_through_redis_until_their_content_changes() {
    let server = redis(servers::redis).await;
    let settings = [("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")];
    let (one, other) = (boot_with(&settings, |address| address).await, boot_with(&settings, |address| address).await);
    let first = one.get("/test/v1/kept/a").await;
    assert_eq!(first.header("cache-status"), "souk; fwd=uri-miss; stored");
    // The first gateway responds to its client before it has stored the response in Redis.
    let shared = wait::value(LONG, "the answer to be shared", async || {
        let fresh = boot_with(&settings, |address| address).await;
        let answer = fresh.get("/test/v1/kept/a").await;
        (call(&answer) == call(&first)).then_some(answer)
    })
    .await;
    assert!(shared.header("cache-status").ends_with("; detail=shared"), "{shared:?}");
    assert_eq!((shared.text.as_str(), shared.header("etag")), (first.text.as_str(), first.header("etag")));
    assert!(shared.header("age").parse::<u64>().unwrap() < 60, "{shared:?}");

    // A change through the second gateway, whose own cache is still empty, invalidates the shared responses.
    other.json("POST", "/test/v1/everything", r#"{"name": "x"}"#).await.ok();
    wait::until(LONG, "the change to be known", async || {
        let fresh = boot_with(&settings, |address| address).await;
        call(&fresh.get("/test/v1/kept/a").await) != call(&first)
    })
    .await;

    drop(server);
    let alone = other.get("/test/v1/kept/b").await;
    assert_eq!(alone.header("cache-status"), "souk; fwd=uri-miss; stored");
}
