//! The program under test, with the runner's protocol: it reads one case at a time from standard input and writes its
//! result to standard output, each with a length prefix of four bytes.

use std::io::{ErrorKind, Read, Write, stdin, stdout};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

/// The protocol of the calls to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Rest,
    Connect,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rest => "REST",
            Self::Connect => "Connect",
        }
    }

    pub fn named(name: &str) -> Self {
        [Self::Rest, Self::Connect].into_iter().find(|protocol| protocol.name() == name).unwrap()
    }

    /// The path of a method of the suite's service.
    fn path(self, method: &str) -> String {
        match self {
            Self::Rest => format!("/test/v1/conformance:{}", method.to_lowercase()),
            Self::Connect => format!("/souk.test.v1.ConformanceService/{method}"),
        }
    }
}

/// `conformance.ConformanceRequest`, with the fields that matter here.
#[derive(Clone, PartialEq, Message)]
struct Case {
    #[prost(oneof = "Payload", tags = "1, 2, 7, 8")]
    payload: Option<Payload>,
    #[prost(int32, tag = "3")]
    requested_output_format: i32,
    #[prost(string, tag = "4")]
    message_type: String,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Payload {
    #[prost(bytes = "bytes", tag = "1")]
    Protobuf(Bytes),
    #[prost(string, tag = "2")]
    Json(String),
    #[prost(string, tag = "7")]
    Jspb(String),
    #[prost(string, tag = "8")]
    Text(String),
}

/// `conformance.WireFormat`.
const PROTOBUF: i32 = 1;
const JSON: i32 = 2;

/// `conformance.ConformanceResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4, 5, 6")]
    outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Outcome {
    #[prost(string, tag = "1")]
    ParseError(String),
    #[prost(string, tag = "2")]
    RuntimeError(String),
    #[prost(bytes = "vec", tag = "3")]
    Protobuf(Vec<u8>),
    #[prost(string, tag = "4")]
    Json(String),
    #[prost(string, tag = "5")]
    Skipped(String),
    #[prost(string, tag = "6")]
    SerializeError(String),
}

/// Answers the runner's cases until its input ends.
pub async fn answer(protocol: Protocol, gateway: &str) {
    let client = Client { http: reqwest::Client::new(), gateway, protocol };
    while let Some(case) = read() {
        let outcome = client.outcome(Case::decode(&*case).unwrap()).await;
        let bytes = Answer { outcome: Some(outcome) }.encode_to_vec();
        let mut out = stdout().lock();
        out.write_all(&u32::try_from(bytes.len()).unwrap().to_le_bytes()).unwrap();
        out.write_all(&bytes).unwrap();
        out.flush().unwrap();
    }
}

fn read() -> Option<Vec<u8>> {
    let mut length = [0; 4];
    match stdin().lock().read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        read => read.unwrap(),
    }
    let mut case = vec![0; u32::from_le_bytes(length) as usize];
    stdin().lock().read_exact(&mut case).unwrap();
    Some(case)
}

struct Client<'a> {
    http: reqwest::Client,
    gateway: &'a str,
    protocol: Protocol,
}

impl Client<'_> {
    async fn outcome(&self, case: Case) -> Outcome {
        // souk's contracts are proto3, so cases for other messages are skipped.
        if case.message_type != "protobuf_test_messages.proto3.TestAllTypesProto3" {
            return Outcome::Skipped(format!("{} is not a proto3 message", case.message_type));
        }
        match (case.payload, case.requested_output_format) {
            (Some(Payload::Json(json)), JSON) => {
                self.call("Echo", json).await.map_or_else(|failed| failed, Outcome::Json)
            }
            (Some(Payload::Json(json)), PROTOBUF) => match self.call("Encode", json).await {
                Ok(answer) => encoded(&answer),
                Err(failed) => failed,
            },
            (Some(Payload::Protobuf(bytes)), JSON) => {
                let asked = json!({"message": BASE64_STANDARD.encode(bytes)}).to_string();
                self.call("Decode", asked).await.map_or_else(|failed| failed, Outcome::Json)
            }
            _ => Outcome::Skipped("no JSON".to_owned()),
        }
    }

    /// The JSON response of a method, or the outcome of a failed call.
    async fn call(&self, method: &str, body: String) -> Result<String, Outcome> {
        let url = format!("{}{}", self.gateway, self.protocol.path(method));
        let request = self.http.post(url).header("content-type", "application/json").body(body);
        let broken = |error: reqwest::Error| Outcome::RuntimeError(error.to_string());
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let text = response.text().await.map_err(broken)?;
        match status.as_u16() {
            200 => Ok(text),
            400 => Err(Outcome::ParseError(text)),
            // The service's response has no JSON form.
            500 => Err(Outcome::SerializeError(text)),
            _ => Err(Outcome::RuntimeError(format!("{status}: {text}"))),
        }
    }
}

/// The bytes that the service received.
fn encoded(answer: &str) -> Outcome {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let bytes = answer["message"].as_str().map(|text| BASE64_STANDARD.decode(text).unwrap());
    bytes.map_or_else(|| Outcome::RuntimeError(answer.to_string()), Outcome::Protobuf)
}
