//! What official gRPC clients rely on: the frames of responses, compressed requests, and errors for invalid requests.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use http::header::ACCEPT_ENCODING;
use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use souk_testkit::http2::{self, HEADERS};
use tonic::Code;

use crate::boot::{Answer, Booted, boot, boot_with, contract};

fn named(name: &str) -> Vec<u8> {
    let mut message = DynamicMessage::new(contract().pool().get_message_by_name("souk.test.v1.Request").unwrap());
    message.set_field_by_name("name", Value::String(name.into()));
    message.encode_to_vec()
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn echo(method: &str) -> String {
    format!("/souk.test.v1.EchoService/{method}")
}

#[tokio::test]
async fn an_answer_without_a_body_is_one_frame_of_headers() {
    let souk = boot().await;
    let frames = async |method: &str, path: &str, content_type: &str, body: Option<Vec<u8>>| {
        let headers =
            [(":method", method), (":scheme", "http"), (":path", path), (":authority", "souk"), ("te", "trailers")];
        let headers = headers.into_iter().chain((!content_type.is_empty()).then_some(("content-type", content_type)));
        http2::exchange(&souk.url, &headers.collect::<Vec<_>>(), body.as_deref()).await
    };
    let grpc = [
        // Errors of a service, with and without details.
        (echo("Fail"), "out-of-stock"),
        (echo("Fail"), "internal"),
        (echo("Fail"), "5"),
        (echo("Fail"), "14"),
        (echo("Guarded"), ""),
        // Errors of the gateway.
        (echo("SignedIn"), ""),
        (echo("Nothing"), ""),
        ("/no.Such/Method".to_owned(), ""),
        ("/grpc.health.v1.Health/Check".to_owned(), "no.Such"),
    ];
    for (path, name) in grpc {
        let message = if path == echo("Guarded") {
            let mut message = DynamicMessage::decode(
                contract().pool().get_message_by_name("souk.test.v1.Request").unwrap(),
                &named("a")[..],
            )
            .unwrap();
            message.set_field_by_name("etag", Value::String("old".into()));
            message.encode_to_vec()
        } else {
            named(name)
        };
        let frames = frames("POST", &path, "application/grpc", Some(frame(0, &message))).await;
        let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [HEADERS], "{path} {name}: an answer that is a status alone is Trailers-Only");
    }
    for (method, path) in [("HEAD", "/test/v1/things/1"), ("OPTIONS", "/test/v1/things/1"), ("HEAD", "/test/v1/none")] {
        let frames = frames(method, path, "", None).await;
        assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [HEADERS], "{method} {path}");
    }
    let whole = frames("POST", &echo("Get"), "application/grpc", Some(frame(0, &named("a")))).await;
    let kinds: Vec<_> = whole.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [HEADERS, http2::DATA, HEADERS]);
}

/// Sends a gRPC call exactly as given. Returns its code if that is in the headers, and the response with its body.
async fn grpc(souk: &Booted, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (Option<Code>, Answer) {
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut request = client.post(format!("{}{path}", souk.url)).body(body);
    request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = Answer::read(request.send().await.unwrap()).await;
    let code = answer.headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    (code, answer)
}

const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];

#[tokio::test]
async fn compressed_messages_are_accepted_within_the_limit() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let packed = frame(1, &gzip(&named("things/packed")));
    for (method, count) in [("Get", 1), ("Watch", 3), ("Chat", 1)] {
        for (flag, body) in [(1, packed.clone()), (0, frame(0, &named("things/packed")))] {
            let (code, answer) = grpc(&souk, &echo(method), GZIP, body).await;
            assert_eq!(code, None, "{method}, flag {flag}: {answer:?}");
            // Once for each message: the echo server returns the name of the request.
            assert_eq!(answer.text.matches("things/packed").count(), count, "{method}, flag {flag}: {answer:?}");
            assert!(!answer.text.contains("grpc-encoding"), "the service sees it as it is: {answer:?}");
        }
    }
    // The health request has no field with this number.
    let (code, health) = grpc(&souk, "/grpc.health.v1.Health/Check", GZIP, frame(1, &gzip(b""))).await;
    assert_eq!((code, health.text.as_bytes()), (None, &b"\0\0\0\0\x02\x08\x01"[..]));

    let bomb = gzip(&vec![0; 8 << 20]);
    assert!(bomb.len() > 4096 && gzip(&vec![0; 1 << 20]).len() < 4096);
    let table = [
        ("too large when it is sent", GZIP, frame(1, &bomb), Code::ResourceExhausted),
        ("too large only when inflated", GZIP, frame(1, &gzip(&vec![0; 1 << 20])), Code::ResourceExhausted),
        ("not gzip", GZIP, frame(1, b"hello"), Code::InvalidArgument),
        ("not whole", GZIP, frame(1, &gzip(b"hello")[..20]), Code::InvalidArgument),
        ("compressed without saying how", &[], packed.clone(), Code::InvalidArgument),
        ("an unknown flag", &[], frame(9, &named("a")), Code::InvalidArgument),
        ("another coding", &[("grpc-encoding", "br")], frame(1, b"hello"), Code::Unimplemented),
        ("another coding, not used", &[("grpc-encoding", "zstd")], frame(0, &named("a")), Code::Unimplemented),
        ("no message", &[], Vec::new(), Code::Unimplemented),
        ("two messages", &[], [frame(0, &named("a")), frame(0, &named("b"))].concat(), Code::Unimplemented),
        ("half a message", &[], frame(0, &named("a"))[..6].to_vec(), Code::InvalidArgument),
        ("a timeout without a unit", &[("grpc-timeout", "1000")], frame(0, &named("a")), Code::InvalidArgument),
        ("a timeout that is none", &[("grpc-timeout", "soon")], frame(0, &named("a")), Code::InvalidArgument),
    ];
    for (what, headers, body, code) in table {
        for method in ["Get", "Watch", "Update"] {
            let (told, answer) = grpc(&souk, &echo(method), headers, body.clone()).await;
            assert_eq!(told, Some(code), "{what}, {method}: {answer:?}");
            let accepted = if what.starts_with("another") { "gzip" } else { "" };
            assert_eq!(answer.header("grpc-accept-encoding"), accepted, "{what}, {method}");
        }
    }
    // The same for services of the gateway itself.
    let health = "/grpc.health.v1.Health/Check";
    let (code, answer) = grpc(&souk, health, &[("grpc-encoding", "br")], frame(1, b"x")).await;
    assert_eq!((code, answer.header("grpc-accept-encoding")), (Some(Code::Unimplemented), "gzip"));
    let (code, _) = grpc(&souk, health, GZIP, frame(1, &gzip(&vec![0; 1 << 20]))).await;
    assert_eq!(code, Some(Code::ResourceExhausted));
    let (code, _) = grpc(&souk, health, &[("grpc-timeout", "x")], frame(0, b"")).await;
    assert_eq!(code, Some(Code::InvalidArgument));
}

#[tokio::test]
async fn grpc_web_accepts_compressed_messages_too() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let web = async |encoding: &str, body: Vec<u8>| {
        let request = souk.request("POST", &echo("Get")).header("content-type", "application/grpc-web+proto");
        souk.send(request.header("grpc-encoding", encoding).body(body)).await
    };
    let taken = web("gzip", frame(1, &gzip(&named("things/packed")))).await;
    assert!(taken.text.contains("things/packed") && taken.text.contains("grpc-status: 0"), "{taken:?}");
    let bomb = web("gzip", frame(1, &gzip(&vec![0; 1 << 20]))).await;
    assert!(bomb.text.contains("grpc-status: 8"), "{bomb:?}");
    let refused = web("br", frame(1, b"hello")).await;
    assert!(refused.text.contains("grpc-status: 12"), "{refused:?}");
    assert_eq!(refused.header("grpc-accept-encoding"), "gzip");
}

#[tokio::test]
async fn compressed_bodies_are_accepted_within_the_limit() {
    let souk = boot_with(&[("server.max_request_bytes", "4KiB")], |address| address).await;
    let post = async |path: &str, content_type: &str, encoding: &str, body: Vec<u8>| {
        let request = souk.request("POST", path).header("content-type", content_type);
        souk.send(request.header("content-encoding", encoding).body(body)).await
    };
    let (rest, connect) = ("/test/v1/everything".to_owned(), echo("Create"));
    let json = json!({"name": "things/packed"}).to_string().into_bytes();
    for path in [&rest, &connect] {
        for (encoding, body) in [("gzip", gzip(&json)), ("x-gzip", gzip(&json)), ("identity", json.clone())] {
            let taken = post(path, "application/json", encoding, body).await.ok();
            assert_eq!(taken["request"]["name"], "things/packed", "{path} {encoding}");
        }
    }
    let proto = post(&connect, "application/proto", "gzip", gzip(&named("things/packed"))).await;
    assert!(proto.text.contains("things/packed"), "{proto:?}");
    // A method that takes any body gets the decompressed bytes.
    let raw = post("/test/v1/received", "text/plain", "gzip", gzip(b"hello")).await.ok();
    assert_eq!(raw["received"]["body"]["data"], "aGVsbG8=", "{raw}");

    let padded = [vec![b' '; 1 << 20], json].concat();
    post(&rest, "application/json", "gzip", gzip(&padded)).await.problem(413, "BODY_TOO_LARGE");
    post(&rest, "application/json", "gzip", b"{}".to_vec()).await.problem(400, "MALFORMED_REQUEST");
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let refused = post(&rest, "application/json", encoding, b"{}".to_vec()).await;
        refused.problem(415, "MEDIA_TYPE_UNSUPPORTED");
        assert_eq!(refused.header(ACCEPT_ENCODING.as_str()), "gzip");
    }
    let table = [
        ("gzip", gzip(&padded), 429, "resource_exhausted", ""),
        ("gzip", b"{}".to_vec(), 400, "invalid_argument", ""),
        ("br", b"{}".to_vec(), 501, "unimplemented", "gzip"),
    ];
    for (encoding, body, status, code, accepted) in table {
        let refused = post(&connect, "application/json", encoding, body).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (status, &json!(code)), "{encoding}");
        assert_eq!(refused.header(ACCEPT_ENCODING.as_str()), accepted);
    }
    // With GET, the query contains the message.
    let query = |message: &[u8], compression: &str| {
        let message = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, message);
        format!("{}?connect=v1&encoding=json&base64=1&compression={compression}&message={message}", echo("Get"))
    };
    let taken = souk.get(&query(&gzip(br#"{"name": "things/packed"}"#), "gzip")).await.ok();
    assert_eq!(taken["request"]["name"], "things/packed");
    let bomb = souk.get(&query(&gzip(&vec![b' '; 1 << 20]), "gzip")).await;
    assert_eq!((bomb.status.as_u16(), &bomb.json()["code"]), (429, &json!("resource_exhausted")));
    let refused = souk.get(&query(b"{}", "br")).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (501, &json!("unimplemented")));
}

#[tokio::test]
async fn grpc_requires_post() {
    let souk = boot().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for method in ["GET", "DELETE", "PUT", "PATCH", "QUERY"] {
        for path in [echo("Create"), echo("Get"), "/grpc.health.v1.Health/Check".to_owned(), "/no.Such/M".to_owned()] {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = client.request(method.clone(), format!("{}{path}", souk.url));
            let request = request.header("content-type", "application/grpc").header("te", "trailers");
            let answer = Answer::read(request.body(frame(0, b"")).send().await.unwrap()).await;
            answer.problem(405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), "POST", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_invalid_grpc_timeout_is_refused() {
    let souk = boot().await;
    for wrong in ["", "soon", "-1", "+5", "1.5", "12345678901"] {
        let call = souk.request("POST", &echo("Get")).header("content-type", "application/json").body("{}");
        let refused = souk.send(call.header("connect-timeout-ms", wrong)).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (400, &json!("invalid_argument")), "{wrong}");
        assert!(refused.text.contains("connect-timeout-ms"), "{refused:?}");
    }
    let refused = souk.send(souk.request("GET", "/test/v1/things/1").header("grpc-timeout", "soon")).await;
    refused.problem(400, "MALFORMED_REQUEST");
    souk.send(souk.request("GET", "/test/v1/things/1").header("grpc-timeout", "5S")).await.ok();
}
