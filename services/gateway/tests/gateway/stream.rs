//! Server streams on REST: both forms, early and late failures, resumption, silence, and every kind of end.

use std::time::{Duration, Instant};

use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use souk_testkit::wait;

use crate::{
    boot::{Answer, Booted, boot, boot_with},
    echo,
};

const LONG: Duration = Duration::from_secs(10);

async fn follow(souk: &Booted, query: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = souk.request("GET", &format!("/test/v1/follow?{query}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Reads a stream until it contains this text.
async fn read_until(response: &mut reqwest::Response, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = tokio::time::timeout(LONG, response.chunk()).await.expect("more comes").unwrap();
        read.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("the end, after {read}"))).unwrap());
    }
    read
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tick(number: u32) -> Value {
    json!({"number": number.to_string(), "text": "two\nlines"})
}

#[tokio::test]
async fn a_stream_is_sent_as_json_lines_or_events() {
    let souk = boot().await;
    for accept in [&[][..], &[("accept", "*/*")], &[("accept", "application/x-ndjson")]] {
        let answer = Answer::read(follow(&souk, "until=2", accept).await).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.header("x-request-id").is_empty());
        assert_eq!(lines(&answer), [tick(1), tick(2)]);
    }
    let answer = Answer::read(follow(&souk, "until=2", &[("accept", "text/event-stream")]).await).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(
        answer.text,
        "retry: 1000\n\n\
         id: 1\ndata: {\"number\":\"1\",\"text\":\"two\\nlines\"}\n\n\
         id: 2\ndata: {\"number\":\"2\",\"text\":\"two\\nlines\"}\n\n\
         event: end\ndata: {}\n\n"
    );
    let json = follow(&souk, "until=2", &[("accept", "application/json")]).await;
    Answer::read(json).await.problem(406, "NOT_ACCEPTABLE");
    let head = souk.send(souk.request("HEAD", "/test/v1/follow?until=1")).await;
    assert_eq!((head.status.as_u16(), head.header("content-type"), &*head.text), (200, "application/x-ndjson", ""));
    // The events of a method without a cursor have no ids.
    let watch = souk.send(souk.request("GET", "/test/v1/watch?name=x").header("accept", "text/event-stream")).await;
    assert_eq!((watch.text.matches("data: {\"method\"").count(), watch.text.contains("id:")), (3, false), "{watch:?}");
}

#[tokio::test]
async fn unary_responses_are_json_for_clients_that_accept_it() {
    let souk = boot().await;
    for (accept, taken) in [("text/html", false), ("application/json;q=0, */*", false), ("application/*", true)] {
        let answer = souk.send(souk.request("GET", "/test/v1/things/1").header("accept", accept)).await;
        if taken { drop(answer.ok()) } else { drop(answer.problem(406, "NOT_ACCEPTABLE")) }
    }
}

#[tokio::test]
async fn an_early_failure_has_an_http_status_and_a_later_one_is_sent_in_the_stream() {
    let souk = boot().await;
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let early = Answer::read(follow(&souk, "then=out-of-stock", &[("accept", accept)]).await).await;
        early.problem(400, "OUT_OF_STOCK");
        Answer::read(follow(&souk, "until=x", &[("accept", accept)]).await).await.problem(400, "MALFORMED_REQUEST");
    }
    let late = Answer::read(follow(&souk, "until=1&then=out-of-stock", &[]).await).await;
    let told = lines(&late);
    assert_eq!((late.status.as_u16(), told.len(), &told[0]), (200, 2, &tick(1)));
    let problem = &told[1]["error"];
    assert_eq!((&problem["reason"], &problem["status"]), (&json!("OUT_OF_STOCK"), &json!(400)));
    assert_eq!(problem["request_id"], late.header("x-request-id"));
    assert_eq!(problem["instance"], "/test/v1/follow");

    let accept = [("accept", "text/event-stream")];
    let late = Answer::read(follow(&souk, "until=1&then=internal", &accept).await).await;
    let (_, error) = late.text.split_once("event: error\ndata: ").unwrap();
    let problem: Value = serde_json::from_str(error.trim_end()).unwrap();
    assert_eq!(problem["reason"], "INTERNAL");
    assert!(!late.text.contains("secret inside") && !late.text.contains("event: end"), "{late:?}");
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_id() {
    let souk = boot().await;
    // It overrides the URL, because EventSource reconnects to the same URL.
    let headers = [("accept", "text/event-stream"), ("last-event-id", "7")];
    let answer = Answer::read(follow(&souk, "after=2&until=8", &headers).await).await;
    let ids: Vec<_> = answer.text.lines().filter(|line| line.starts_with("id:")).collect();
    assert_eq!(ids, ["id: 8"]);
    let lines_too = Answer::read(follow(&souk, "until=8", &[("last-event-id", "7")]).await).await;
    assert_eq!(lines(&lines_too), [tick(8)]);
    let wrong = Answer::read(follow(&souk, "until=8", &[("last-event-id", "x")]).await).await;
    let problem = wrong.problem(400, "MALFORMED_REQUEST");
    assert_eq!(problem["errors"][0]["field"], "after");
    // If the method has no cursor, the header is ignored.
    let watch = souk.request("GET", "/test/v1/watch").header("last-event-id", "x");
    assert_eq!(souk.send(watch).await.status, 200);
}

#[tokio::test]
async fn a_silent_stream_opens_and_sends_heartbeats() {
    let settings = [("gateway.stream.hold", "100ms"), ("gateway.stream.heartbeat", "50ms")];
    let souk = boot_with(&settings, |address| address).await;
    let mut events = follow(&souk, "then=wait", &[("accept", "text/event-stream")]).await;
    assert_eq!(events.status(), 200);
    let silence = read_until(&mut events, ":\n\n:\n\n").await;
    assert!(silence.starts_with("retry: 1000\n\n:\n\n:\n\n"), "{silence}");
    // A failure after `hold` is late.
    let late = follow(&souk, "until=1&pause_millis=400&then=out-of-stock", &[]).await;
    assert_eq!(lines(&Answer::read(late).await).len(), 2);
}

#[tokio::test]
async fn the_call_to_the_service_is_cancelled_when_the_client_leaves() {
    let souk = boot_with(&[("gateway.stream.hold", "1s")], |address| address).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for (watcher, client) in [("left-1", reqwest::Client::new()), ("left-2", http2)] {
        let url = format!("{}/test/v1/follow?until=1&then=wait&watcher={watcher}", souk.url);
        let mut stream = client.get(url).send().await.unwrap();
        read_until(&mut stream, "\"1\"").await;
        assert_eq!(echo::open(watcher), 1);
        drop((stream, client));
        wait::until(LONG, "the call to be cancelled", async || echo::open(watcher) == 0).await;
    }
}

#[tokio::test]
async fn a_stream_has_its_own_timeout_instead_of_the_deadline() {
    let settings = [("server.deadline", "300ms"), ("gateway.stream.timeout", "2s"), ("gateway.stream.hold", "50ms")];
    let souk = boot_with(&settings, |address| address).await;
    let started = Instant::now();
    let answer = Answer::read(follow(&souk, "until=1&pause_millis=600&then=wait&watcher=timeout", &[]).await).await;
    assert!(started.elapsed() >= Duration::from_millis(1900), "{:?}", started.elapsed());
    let told = lines(&answer);
    assert_eq!((&told[0], &told[1]["error"]["reason"]), (&tick(1), &json!("DEADLINE_EXCEEDED")));
    wait::until(LONG, "the call to be cancelled", async || echo::open("timeout") == 0).await;
    // An event stream just ends, because its reader reconnects.
    let accept = [("accept", "text/event-stream")];
    let answer = Answer::read(follow(&souk, "until=1&then=wait", &accept).await).await;
    assert!(answer.text.ends_with("\n\n") && !answer.text.contains("event:"), "{answer:?}");
    // A shorter deadline of the caller applies.
    let started = Instant::now();
    Answer::read(follow(&souk, "then=wait", &[("grpc-timeout", "200m")]).await).await;
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn streams_end_cleanly_when_the_gateway_stops() {
    let souk = boot_with(&[("server.drain", "20s")], |address| address).await;
    let started = Instant::now();
    let mut events = follow(&souk, "until=1&then=wait", &[("accept", "text/event-stream")]).await;
    let mut lines = follow(&souk, "until=1&then=wait", &[]).await;
    read_until(&mut events, "id: 1").await;
    read_until(&mut lines, "\"1\"").await;
    souk.shutdown.cancel();
    let told = read_until(&mut lines, "}}\n").await;
    assert!(told.contains("\"reason\":\"SERVICE_UNAVAILABLE\""), "{told}");
    assert!(!events.text().await.unwrap().contains("event:"));
    tokio::time::timeout(LONG, souk.served).await.expect("nothing waits for the end of the drain").unwrap();
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn streams_have_their_own_limit() {
    let souk = boot_with(&[("gateway.stream.max_open", "1")], |address| address).await;
    let mut first = follow(&souk, "until=1&then=wait", &[]).await;
    read_until(&mut first, "\"1\"").await;
    Answer::read(follow(&souk, "until=1", &[]).await).await.problem(503, "OVERLOADED");
    souk.get("/test/v1/things/1").await.ok();
    drop(first);
    wait::until(LONG, "the place to be free", async || follow(&souk, "until=1", &[]).await.status() == 200).await;
}

#[tokio::test]
async fn an_event_source_that_reconnects_gets_no_permanent_error() {
    let souk = boot_with(&[], |_| "http://127.0.0.1:1".to_owned()).await;
    let accept = ("accept", "text/event-stream");
    Answer::read(follow(&souk, "", &[accept]).await).await.problem(503, "SERVICE_UNAVAILABLE");
    let back = Answer::read(follow(&souk, "", &[accept, ("last-event-id", "3")]).await).await;
    assert_eq!(back.status, 200);
    assert!(back.text.starts_with("retry: 1000\n\nevent: error\ndata: {"), "{back:?}");
    Answer::read(follow(&souk, "", &[("last-event-id", "3")]).await).await.problem(503, "SERVICE_UNAVAILABLE");
}

#[tokio::test]
async fn a_service_that_dies_during_a_stream_is_unavailable_not_broken() {
    let (address, _health) = echo::serve(crate::boot::contract()).await;
    let proxy = souk_testkit::proxy::Proxy::start(address.trim_start_matches("http://").to_owned()).await;
    let front = format!("http://{}", proxy.address());
    let souk = boot_with(&[], move |_| front).await;
    let mut lines = follow(&souk, "until=1&then=wait", &[]).await;
    read_until(&mut lines, "\"1\"").await;
    let mut request =
        DynamicMessage::new(crate::boot::contract().pool().get_message_by_name("souk.test.v1.FollowRequest").unwrap());
    request.set_field_by_name("then", prost_reflect::Value::String("wait".into()));
    let message = request.encode_to_vec();
    let frame = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
    let web = souk
        .request("POST", "/souk.test.v1.EchoService/Follow")
        .header("content-type", "application/grpc-web")
        .body(frame)
        .send()
        .await
        .unwrap();
    proxy.cut();
    let told = read_until(&mut lines, "}}\n").await;
    assert!(told.contains("\"reason\":\"SERVICE_UNAVAILABLE\""), "{told}");
    let told = web.bytes().await.unwrap();
    assert!(told.windows(15).any(|window| window == b"grpc-status: 14"), "{told:?}");
}
