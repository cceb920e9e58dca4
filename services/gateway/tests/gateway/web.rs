//! gRPC-Web and Connect on the wire. `tests/clients` has the tests with real clients.

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use serde_json::json;
use tonic_types::StatusExt;

use crate::boot::{Answer, Booted, boot, boot_with, contract};

fn message_type(name: &str) -> MessageDescriptor {
    contract().pool().get_message_by_name(&format!("souk.test.v1.{name}")).unwrap()
}

fn named(name: &str) -> Vec<u8> {
    let mut message = DynamicMessage::new(message_type("Request"));
    message.set_field_by_name("name", Value::String(name.into()));
    message.encode_to_vec()
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// The messages of a response, and its trailers.
fn frames(mut bytes: &[u8]) -> (Vec<serde_json::Value>, http::HeaderMap) {
    let mut messages = Vec::new();
    loop {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let (content, rest) = bytes[5..].split_at(length);
        if bytes[0] == 0x80 {
            assert!(rest.is_empty(), "more behind the trailers");
            let lines = std::str::from_utf8(content).unwrap().lines();
            let trailers = lines.map(|line| line.split_once(": ").unwrap());
            let trailers = trailers.map(|(name, value)| (name.try_into().unwrap(), value.try_into().unwrap()));
            return (messages, trailers.collect());
        }
        assert_eq!(bytes[0], 0);
        messages.push(serde_json::to_value(DynamicMessage::decode(message_type("Reply"), content).unwrap()).unwrap());
        bytes = rest;
    }
}

async fn web(souk: &Booted, client: &reqwest::Client, kind: &str, method: &str, body: Vec<u8>) -> reqwest::Response {
    let url = format!("{}/souk.test.v1.EchoService/{method}", souk.url);
    let content_type = format!("application/grpc-web{kind}");
    client.post(url).header("content-type", content_type).header("x-grpc-web", "1").body(body).send().await.unwrap()
}

#[tokio::test]
async fn grpc_web_in_binary_and_text_over_both_protocols() {
    let souk = boot().await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [reqwest::Client::new(), http2] {
        for (kind, answered) in [("", "application/grpc-web+proto"), ("-text+proto", "application/grpc-web-text+proto")]
        {
            let text = kind.starts_with("-text");
            let encode = |bytes: Vec<u8>| match text {
                // In two parts, each with its own padding.
                true => [&bytes[..5], &bytes[5..]].map(|part| BASE64_STANDARD.encode(part)).concat().into_bytes(),
                false => bytes,
            };
            let decode = |bytes: &[u8]| match text {
                true => bytes.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap()).collect(),
                false => bytes.to_vec(),
            };
            for (method, name, count) in [("Get", "things/1", 1), ("Watch", "x", 3), ("Watch", "break", 3)] {
                let answer = web(&souk, &client, kind, method, encode(frame(0, &named(name)))).await;
                assert_eq!(
                    (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
                    (200, answered)
                );
                assert!(answer.headers().get("grpc-status").is_none());
                let (messages, trailers) = frames(&decode(&answer.bytes().await.unwrap()));
                assert_eq!(messages.len(), count, "{method}");
                assert_eq!(messages[0]["request"]["name"], name);
                let status = tonic::Status::from_header_map(&trailers).unwrap();
                if name == "break" {
                    let info = status.get_details_error_info().unwrap();
                    assert_eq!(
                        (status.code(), info.reason.as_str()),
                        (tonic::Code::FailedPrecondition, "OUT_OF_STOCK")
                    );
                } else {
                    assert_eq!(status.code(), tonic::Code::Ok);
                }
            }
        }
    }
}

#[tokio::test]
async fn grpc_web_refusals_are_statuses_in_the_body() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let client = reqwest::Client::new();
    let table = [
        ("", "SignedIn", frame(0, b""), tonic::Code::Unauthenticated),
        ("", "Internal", frame(0, b""), tonic::Code::PermissionDenied),
        ("", "Nothing", frame(0, b""), tonic::Code::Unimplemented),
        ("", "Get", frame(0, &[0; 5000]), tonic::Code::ResourceExhausted),
        ("-text", "Get", b"not base64!".to_vec(), tonic::Code::InvalidArgument),
        ("", "Fail", frame(0, &named("out-of-stock")), tonic::Code::FailedPrecondition),
    ];
    for (kind, method, body, code) in table {
        let answer = web(&souk, &client, kind, method, body).await;
        assert_eq!(answer.status(), 200);
        let bytes = answer.bytes().await.unwrap();
        let bytes = if kind.is_empty() { bytes.to_vec() } else { BASE64_STANDARD.decode(bytes).unwrap() };
        let (messages, trailers) = frames(&bytes);
        let status = tonic::Status::from_header_map(&trailers).unwrap();
        assert_eq!((messages.len(), status.code()), (0, code), "{method}: {status:?}");
        assert!(status.get_details_error_info().is_some(), "{method}");
    }
    // The health service, too.
    let url = format!("{}/grpc.health.v1.Health/Check", souk.url);
    let health =
        client.post(url).header("content-type", "application/grpc-web").body(frame(0, b"")).send().await.unwrap();
    let bytes = health.bytes().await.unwrap();
    assert!(bytes.starts_with(&[0, 0, 0, 0, 2, 8, 1, 0x80]), "{bytes:?}");
}

async fn connect(souk: &Booted, method: &str, content_type: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = souk
        .request("POST", &format!("/souk.test.v1.EchoService/{method}"))
        .header("content-type", content_type)
        .header("connect-protocol-version", "1")
        .body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    souk.send(request).await
}

#[tokio::test]
async fn connect_accepts_json_and_protobuf() {
    let souk = boot().await;
    let json = connect(&souk, "Get", "application/json", &[], br#"{"name": "things/1"}"#.to_vec()).await.ok();
    assert_eq!((&json["method"], &json["request"]["name"]), (&json!("Get"), &json!("things/1")));
    let proto = souk
        .request("POST", "/souk.test.v1.EchoService/Get")
        .header("content-type", "application/proto")
        .body(named("things/2"))
        .send()
        .await
        .unwrap();
    assert_eq!(proto.headers()["content-type"], "application/proto");
    let reply = DynamicMessage::decode(message_type("Reply"), proto.bytes().await.unwrap()).unwrap();
    assert_eq!(serde_json::to_value(reply).unwrap()["request"]["name"], "things/2");
    // Connect ignores the body of the HTTP rule: its body is always the whole message.
    let update = connect(&souk, "Update", "application/json", &[], br#"{"thing": {"title": "t"}}"#.to_vec()).await.ok();
    assert_eq!(update["thing"]["title"], "t");
    let get = souk.get("/souk.test.v1.EchoService/Get?connect=v1&encoding=json&message=%7B%22name%22:%22a%22%7D").await;
    assert_eq!(get.ok()["request"]["name"], "a");
    let post_only = souk.get("/souk.test.v1.EchoService/Create?encoding=json&message=%7B%7D").await;
    post_only.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(post_only.header("allow"), "POST, OPTIONS");
    let waited = [("connect-timeout-ms", "2000")];
    let told = connect(&souk, "Get", "application/json", &waited, b"{}".to_vec()).await.ok();
    let left: u64 = told["headers"]["grpc-timeout"].as_str().unwrap().trim_end_matches('m').parse().unwrap();
    assert!((1000..=2000).contains(&left), "{left}");
}

#[tokio::test]
async fn connect_errors_have_the_shape_of_connect_and_the_details_of_souk() {
    let souk = boot().await;
    let fail = async |how: &str, headers: &[(&str, &str)]| {
        connect(&souk, "Fail", "application/json", headers, json!({"name": how}).to_string().into_bytes()).await
    };
    let stock = fail("out-of-stock", &[]).await;
    assert_eq!((stock.status.as_u16(), stock.header("content-type")), (400, "application/json"));
    let told = stock.json();
    assert_eq!((&told["code"], &told["message"]), (&json!("failed_precondition"), &json!("only 3 left")));
    let types: Vec<_> = told["details"].as_array().unwrap().iter().map(|detail| &detail["type"]).collect();
    assert_eq!(types, ["google.rpc.ErrorInfo", "google.rpc.PreconditionFailure", "google.rpc.RequestInfo"]);
    let late = fail("wait", &[("connect-timeout-ms", "100")]).await;
    assert_eq!((late.status.as_u16(), &late.json()["code"]), (504, &json!("deadline_exceeded")));
    let busy = fail("busy", &[]).await;
    assert_eq!(
        (busy.status.as_u16(), &*busy.json()["code"].to_string(), busy.header("retry-after")),
        (429, "\"resource_exhausted\"", "3")
    );
    assert!(!fail("internal", &[]).await.text.contains("secret inside"));

    let call = async |method: &str, content_type: &str, body: &str| {
        let answer = connect(&souk, method, content_type, &[], body.as_bytes().to_vec()).await;
        (answer.status.as_u16(), answer.json()["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(call("SignedIn", "application/json", "{}").await, (401, "unauthenticated".into()));
    assert_eq!(call("Internal", "application/json", "{}").await, (403, "permission_denied".into()));
    assert_eq!(call("Get", "application/json", "{\"nmae\": 1}").await, (400, "invalid_argument".into()));
    assert_eq!(call("Checked", "application/json", "{}").await, (400, "invalid_argument".into()));
    assert_eq!(call("Watch", "application/json", "{}").await, (501, "unimplemented".into()));
    assert_eq!(call("Get", "text/plain", "{}").await, (415, "invalid_argument".into()));
}
