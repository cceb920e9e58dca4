//! Kept answers over the wire. The echo's answer holds the request id of the call that it answers, so two answers
//! that are the same come from one call.

use std::{collections::HashSet, time::Duration};

use souk_testkit::{servers, wait};

use crate::{
    boot::{Answer, boot, boot_with},
    limits::redis,
};

const LONG: Duration = Duration::from_secs(60);

/// Which call of the service an answer is from.
fn call(answer: &Answer) -> String {
    answer.ok()["headers"]["x-request-id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_same_question_is_asked_once_however_it_is_written() {
    let souk = boot().await;
    let first = souk.get("/test/v1/kept/a?tags=x&pageSize=3").await;
    assert_eq!((first.header("cache-status"), first.header("age")), ("souk; fwd=uri-miss; stored", ""));
    for path in [
        "/test/v1/kept/a?tags=x&pageSize=3",
        "/test/v1/kept/%61?pageSize=3&tags=x",
        "/test/v1/kept/a?page_size=3&tags=x",
    ] {
        // Nor does it help to ask for a new one.
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
    // Another view of the same answer.
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

    // Answers that are not for everyone are not kept, not even for who asked.
    let mine = souk.get_as("/test/v1/read", &token).await;
    assert!(mine.ok()["headers"].get("authorization").is_some());
    assert_eq!(mine.header("cache-status"), "");
    assert_ne!(call(&souk.get_as("/test/v1/read", &token).await), call(&mine));
}

#[tokio::test]
async fn a_stampede_is_one_call() {
    let souk = boot().await;
    let all = futures::future::join_all((0..200).map(|_| souk.get("/test/v1/kept/a"))).await;
    let calls: HashSet<String> = all.iter().map(call).collect();
    assert_eq!(calls.len(), 1);
    let misses = all.iter().filter(|answer| answer.header("cache-status") == "souk; fwd=uri-miss; stored").count();
    assert_eq!(misses, 1);
}

#[tokio::test]
async fn a_change_through_the_gateway_is_seen_by_who_asks_next() {
    let souk = boot().await;
    let get = async || call(&souk.get("/test/v1/kept/a").await);
    let first = get().await;
    // Refused requests change nothing, nor do safe ones.
    souk.json("POST", "/test/v1/everything", r#"{"nope": 1}"#).await.problem(400, "UNKNOWN_FIELD");
    souk.get("/test/v1/signedIn").await.problem(401, "TOKEN_MISSING");
    souk.get("/test/v1/things/1").await.ok();
    assert_eq!(get().await, first);

    souk.json("POST", "/test/v1/everything", r#"{"name": "x"}"#).await.ok();
    let second = get().await;
    assert_ne!(second, first);
    // By gRPC, too.
    let mut client = tonic::client::Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    let path = "/souk.test.v1.EchoService/Create".parse().unwrap();
    client.unary(tonic::Request::new(Vec::new()), path, crate::grpc::Raw).await.unwrap();
    let third = get().await;
    assert_ne!(third, second);
    // Nobody knows what became of a change that failed on the way.
    souk.get("/test/v1/fail/internal").await.problem(500, "INTERNAL");
    assert_ne!(get().await, third);
}

#[tokio::test]
async fn nothing_is_kept_where_that_is_turned_off() {
    let souk = boot_with(&[("gateway.cache.enabled", "false")], |address| address).await;
    let first = souk.get("/test/v1/kept/a").await;
    assert_eq!(first.header("cache-status"), "");
    assert_ne!(call(&souk.get("/test/v1/kept/a").await), call(&first));
}

#[tokio::test]
async fn gateways_share_answers_through_redis_until_something_changes() {
    let server = redis(servers::redis).await;
    let settings = [("gateway.redis_url", server.url()), ("gateway.redis_timeout", "5s")];
    let (one, other) = (boot_with(&settings, |address| address).await, boot_with(&settings, |address| address).await);
    let first = one.get("/test/v1/kept/a").await;
    assert_eq!(first.header("cache-status"), "souk; fwd=uri-miss; stored");
    // The first gateway keeps it for the others while its client has it already.
    let shared = wait::value(LONG, "the answer to be shared", async || {
        let fresh = boot_with(&settings, |address| address).await;
        let answer = fresh.get("/test/v1/kept/a").await;
        (call(&answer) == call(&first)).then_some(answer)
    })
    .await;
    assert!(shared.header("cache-status").ends_with("; detail=shared"), "{shared:?}");
    assert_eq!((shared.text.as_str(), shared.header("etag")), (first.text.as_str(), first.header("etag")));
    assert!(shared.header("age").parse::<u64>().unwrap() < 60, "{shared:?}");

    // A change through the second gateway, which keeps nothing of its own yet, makes what is shared worth nothing.
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
