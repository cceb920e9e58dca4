//! gRPC through the gateway: calls and streams are passed on unchanged; refusals have details; health; reflection.

use std::time::Duration;

use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use prost::Message;
use prost::bytes::Buf;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use souk_common::error::{Problem, Reason};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::boot::{Booted, boot, boot_with, contract};

/// Sends and receives encoded messages.
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/souk.test.v1.EchoService/{method}")).unwrap()
}

fn message_type(name: &str) -> MessageDescriptor {
    contract().pool().get_message_by_name(&format!("souk.test.v1.{name}")).unwrap()
}

fn named(name: &str) -> Vec<u8> {
    let mut message = DynamicMessage::new(message_type("Request"));
    message.set_field_by_name("name", Value::String(name.into()));
    message.encode_to_vec()
}

fn reply(bytes: &[u8]) -> serde_json::Value {
    serde_json::to_value(DynamicMessage::decode(message_type("Reply"), bytes).unwrap()).unwrap()
}

async fn client(souk: &Booted) -> Grpc<Channel> {
    let mut client = Grpc::new(souk.channel().await);
    client.ready().await.unwrap();
    client
}

async fn unary(souk: &Booted, method: &str, name: &str, token: Option<&str>) -> Result<Vec<u8>, Status> {
    let mut request = Request::new(named(name));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    Ok(client(souk).await.unary(request, path(method), Raw).await?.into_inner())
}

#[tokio::test]
async fn a_call_is_passed_on_with_allowed_metadata_only() {
    let souk = boot().await;
    let mut request = Request::new(named("things/1"));
    request.metadata_mut().insert("x-souk-user", "users/usr_admin".parse().unwrap());
    request.metadata_mut().insert("x-request-id", "req-7".parse().unwrap());
    request.set_timeout(Duration::from_secs(2));
    let response = client(&souk).await.unary(request, path("Get"), Raw).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "req-7");
    assert!(response.metadata().get("x-secret-of-the-service").is_none());
    let reply = reply(response.get_ref());
    assert_eq!((&reply["method"], &reply["request"]["name"]), (&"Get".into(), &"things/1".into()));
    let headers = &reply["headers"];
    assert_eq!(headers["x-request-id"], "req-7");
    assert!(headers.get("x-souk-user").is_none());
    let left: u64 = headers["grpc-timeout"].as_str().unwrap().trim_end_matches('m').parse().unwrap();
    assert!((1000..=2000).contains(&left), "the caller's deadline is kept: {left}");
}

#[tokio::test]
async fn unknown_fields_are_passed_on_unchanged() {
    let souk = boot().await;
    // Field 1000, a string, which no contract has.
    let unknown = [0xc2, 0x3e, 3, b'n', b'e', b'w'];
    let sent = [named("things/1"), unknown.to_vec()].concat();
    let answer = client(&souk).await.unary(Request::new(sent), path("Get"), Raw).await.unwrap().into_inner();
    assert!(answer.windows(unknown.len()).any(|window| window == unknown));
}

#[tokio::test]
async fn streams_run_both_ways_at_once() {
    let souk = boot().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let messages = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    sender.send(named("0")).await.unwrap();
    let mut answers =
        client(&souk).await.streaming(Request::new(messages), path("Chat"), Raw).await.unwrap().into_inner();
    for turn in 0..20 {
        // Each response arrives before the next message is sent.
        let answer = reply(&answers.next().await.unwrap().unwrap());
        assert_eq!(answer["request"]["name"], turn.to_string());
        sender.send(named(&(turn + 1).to_string())).await.unwrap();
    }
    drop(sender);
    assert!(answers.next().await.unwrap().is_ok());
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_late_failure_of_a_stream_keeps_its_details() {
    let souk = boot().await;
    let mut answers = client(&souk)
        .await
        .server_streaming(Request::new(named("break")), path("Watch"), Raw)
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        answers.next().await.unwrap().unwrap();
    }
    let status = answers.next().await.unwrap().unwrap_err();
    let expected = Status::from(crate::echo::out_of_stock());
    assert_eq!(
        (status.code(), status.message(), status.details()),
        (expected.code(), expected.message(), expected.details())
    );
}

#[tokio::test]
async fn a_stream_has_its_own_deadline_and_ends_with_a_status() {
    let settings = [("server.deadline", "300ms"), ("gateway.stream.timeout", "2s")];
    let souk = boot_with(&settings, |address| address).await;
    let mut request = DynamicMessage::new(message_type("FollowRequest"));
    request.set_field_by_name("until", Value::I64(1));
    request.set_field_by_name("pause_millis", Value::U32(600));
    request.set_field_by_name("then", Value::String("wait".into()));
    request.set_field_by_name("watcher", Value::String("grpc".into()));
    let follow = async || {
        let call = Request::new(request.encode_to_vec());
        client(&souk).await.server_streaming(call, path("Follow"), Raw).await.unwrap().into_inner()
    };
    let mut timed = follow().await;
    assert!(timed.next().await.unwrap().is_ok(), "it comes later than server.deadline allows for one answer");
    assert_eq!(timed.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    let mut stopped = follow().await;
    assert!(stopped.next().await.unwrap().is_ok());
    souk.shutdown.cancel();
    let status = stopped.next().await.unwrap().unwrap_err();
    assert_eq!(Problem::from_status(&status).reason(), Reason::ServiceUnavailable, "{status:?}");
    souk_testkit::wait::until(Duration::from_secs(10), "the calls to be cancelled", async || {
        crate::echo::open("grpc") == 0
    })
    .await;
}

#[tokio::test]
async fn early_failures_keep_their_details_too() {
    let souk = boot().await;
    let status = unary(&souk, "Fail", "out-of-stock", None).await.unwrap_err();
    let expected = Status::from(crate::echo::out_of_stock());
    assert_eq!(
        (status.code(), status.message(), status.details()),
        (expected.code(), expected.message(), expected.details())
    );
}

#[tokio::test]
async fn refusals_are_statuses_with_details() {
    let souk = boot_with(&[("server.deadline", "1s"), ("server.max_request_bytes", "4KiB")], |address| address).await;
    let customer = souk.keys.token(&[], 60);
    let admin = souk.keys.token(&["ADMIN"], 60);
    let table = [
        ("SignedIn", "", None, Code::Unauthenticated, Reason::TokenMissing),
        ("SignedIn", "", Some("nonsense"), Code::Unauthenticated, Reason::TokenInvalid),
        ("Get", "", Some("nonsense"), Code::Unauthenticated, Reason::TokenInvalid),
        ("StaffOnly", "", Some(customer.as_str()), Code::PermissionDenied, Reason::AccessDenied),
        ("Internal", "", Some(admin.as_str()), Code::PermissionDenied, Reason::AccessDenied),
        ("Internal", "", None, Code::PermissionDenied, Reason::AccessDenied),
        ("Nothing", "", None, Code::Unimplemented, Reason::Unimplemented),
        ("Fail", "wait", None, Code::DeadlineExceeded, Reason::DeadlineExceeded),
        ("Get", &"x".repeat(5000), None, Code::ResourceExhausted, Reason::BodyTooLarge),
    ];
    for (method, name, token, code, reason) in table {
        let status = unary(&souk, method, name, token).await.unwrap_err();
        let problem = Problem::from_status(&status);
        assert_eq!((status.code(), problem.reason()), (code, reason), "{method}: {status:?}");
        assert!(!status.details().is_empty(), "{method}: no details");
    }
    unary(&souk, "StaffOnly", "", Some(&admin)).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_is_down_is_unavailable_with_a_retry_delay() {
    let souk = boot_with(&[], |_| "http://127.0.0.1:1".to_owned()).await;
    let status = unary(&souk, "Update", "", None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let problem = Problem::from_status(&status);
    assert_eq!(problem.reason(), Reason::ServiceUnavailable);
    assert!(problem.retry_delay().is_some());
}

#[tokio::test]
async fn the_health_service_reports_the_backends() {
    let souk = boot().await;
    let mut health = HealthClient::new(souk.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("")).await.unwrap().get_ref().status(), ServingStatus::Serving);
    assert_eq!(health.check(ask("souk.test.v1.EchoService")).await.unwrap().get_ref().status(), ServingStatus::Serving);
    assert_eq!(health.check(ask("no.Such")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    souk.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let ready = souk.get("/readyz").await;
    assert_eq!(ready.status.as_u16(), 503);
    assert_eq!(ready.json()["backends"][0]["state"], "NOT_SERVING");
}

#[tokio::test]
async fn reflection_knows_the_whole_contract() {
    use tonic_reflection::pb::{v1, v1alpha};
    let souk = boot().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(souk.channel().await);
    let ask = |request| v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    use v1::server_reflection_request::MessageRequest;
    let asked = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("souk.test.v1.EchoService".into())),
    ]);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let services = format!("{:?}", answers.next().await.unwrap().unwrap());
    assert!(services.contains("souk.test.v1.EchoService") && services.contains("grpc.health.v1.Health"), "{services}");
    let file = format!("{:?}", answers.next().await.unwrap().unwrap());
    assert!(file.contains("FileDescriptorResponse"), "{file}");

    let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(souk.channel().await);
    let asked = stream::iter([v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    }]);
    let services = format!("{:?}", old.server_reflection_info(asked).await.unwrap().into_inner().next().await);
    assert!(services.contains("souk.test.v1.EchoService"), "{services}");
}

#[tokio::test]
async fn reflection_does_not_echo_a_name_of_megabytes() {
    use tonic_reflection::pb::v1::{self, server_reflection_request::MessageRequest};
    let souk = boot().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(souk.channel().await);
    for length in [3000, 1_000_000] {
        let symbol = MessageRequest::FileContainingSymbol("x".repeat(length));
        let asked = stream::iter([v1::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) }]);
        let refused = match client.server_reflection_info(asked).await {
            Ok(answers) => answers.into_inner().next().await.and_then(Result::err),
            Err(status) => Some(status),
        };
        // The stream may also end without a message. The name must not be echoed.
        assert!(refused.is_none_or(|status| status.message().len() <= 4096), "{length}");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_is_a_client_error() {
    let souk = boot().await;
    // An incomplete number, sent to a method without rules and to a service of the gateway itself.
    for method in ["/souk.test.v1.EchoService/GetSpecial", "/grpc.health.v1.Health/Check"] {
        let mut client = client(&souk).await;
        let asked = Request::new(b"\x08\xff".to_vec());
        let status = client.unary(asked, PathAndQuery::from_static(method), Raw).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
        assert_eq!(Problem::from_status(&status).reason(), Reason::MalformedRequest);
    }
    let mut client = client(&souk).await;
    let asked = Request::new(b"\x08\xff".to_vec());
    let watch = PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
    let status = client.server_streaming(asked, watch, Raw).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let connect = souk.request("POST", "/souk.test.v1.EchoService/GetSpecial");
    let answer = souk.send(connect.header("content-type", "application/proto").body(&b"\x08\xff"[..])).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (400, &"invalid_argument".into()), "{answer:?}");
}

#[tokio::test]
async fn errors_do_not_echo_a_name_of_megabytes() {
    let souk = boot().await;
    let long = "x".repeat(3_900_000);
    for (path, bound) in [("/test/v1/everything", 4096), ("/souk.test.v1.EchoService/Create", 8192)] {
        let answer = souk.json("POST", path, &format!(r#"{{"{long}": 1}}"#)).await;
        assert_eq!(answer.status.as_u16(), 400);
        assert!(answer.text.len() < bound, "{path}: {} bytes", answer.text.len());
        assert!(answer.text.contains("is not a field of Request"), "{}", answer.text);
    }
    // In the path, in a parameter's name, in a header that fills a field, and in the method.
    let long = "x".repeat(20_000);
    let (key, method) = ("idempotency-key", "X".repeat(10_000));
    let header = souk.request("POST", "/test/v1/everything").header(key, &long).body(r#"{"requestId": "a"}"#);
    for request in [
        souk.request("GET", &format!("/test/v1/{long}")),
        souk.request("GET", &format!("/test/v1/things/1?{long}=1")),
        souk.request("GET", &format!("/test/v1/numbers/{long}/1")),
        souk.request(&method, "/test/v1/things/1"),
        header,
    ] {
        let answer = souk.send(request).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert!(answer.text.len() < 4096, "{} bytes: {answer:?}", answer.text.len());
        for (name, value) in &answer.headers {
            assert!(value.len() < 1024, "{name}");
        }
    }
}
