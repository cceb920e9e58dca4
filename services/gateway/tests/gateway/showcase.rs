//! The compliance suite of Google's gapic-showcase through `souk gateway --descriptors`: each request of a group is
//! sent to each RPC of the group and must be returned unchanged. The suite is read from a folder beside the repository;
//! without it, the test uses requests of the same form.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde_json::{Map, Value, json};
use souk_gateway::transcode::{Binding, Parts};

use crate::backend::{self, Gateway, Reply, compile, serving};

/// An RPC and the form of its request.
struct Rpc {
    name: &'static str,
    http_method: &'static str,
    /// The path, with fields of `info` in braces.
    path: &'static str,
    body: Body,
}

#[derive(PartialEq)]
enum Body {
    None,
    Info,
    All,
}

const RPCS: [Rpc; 7] = [
    Rpc { name: "RepeatDataBody", http_method: "POST", path: "/v1beta1/repeat:body", body: Body::All },
    Rpc { name: "RepeatDataBodyInfo", http_method: "POST", path: "/v1beta1/repeat:bodyinfo", body: Body::Info },
    Rpc { name: "RepeatDataBodyPut", http_method: "PUT", path: "/v1beta1/repeat:bodyput", body: Body::All },
    Rpc { name: "RepeatDataBodyPatch", http_method: "PATCH", path: "/v1beta1/repeat:bodypatch", body: Body::All },
    Rpc { name: "RepeatDataQuery", http_method: "GET", path: "/v1beta1/repeat:query", body: Body::None },
    Rpc {
        name: "RepeatDataSimplePath",
        http_method: "GET",
        path: "/v1beta1/repeat/{fString}/{fInt32}/{fDouble}/{fBool}/{fKingdom}:simplepath",
        body: Body::None,
    },
    Rpc {
        name: "RepeatDataPathResource",
        http_method: "GET",
        path: "/v1beta1/repeat/{fString}/{fChild.fString}/bool/{fBool}:pathresource",
        body: Body::None,
    },
];
/// The additional binding of the RPC before.
const CHILD_FIRST: &str = "/v1beta1/repeat/{fChild.fString}/{fString}/bool/{fBool}:childfirstpathresource";

fn suite() -> (Value, usize) {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/compliance_suite.json");
    if let Ok(text) = std::fs::read_to_string(&beside) {
        return (serde_json::from_str(&text).unwrap(), 53);
    }
    eprintln!("{} is not there: requests of the test's own stand in for it", beside.display());
    let all = RPCS.iter().map(|rpc| rpc.name).filter(|name| *name != "RepeatDataPathResource").collect::<Vec<_>>();
    let info = json!({
        "fString": "Hello 100% \"you\" ☺", "fInt32": -2_147_483_648_i64, "fUint64": "18446744073709551615", "fDouble": -29e4,
        "fBool": true, "fKingdom": "ANIMALIA", "pString": "", "pInt32": 0, "pBool": false, "pKingdom": "PLANTAE",
        "fChild": {"fString": "second/bool/salutation"},
    });
    let resource = json!({"fString": "first/hello", "pBool": true, "fChild": {"fString": "second/greetings"}});
    let child_first = json!({"fString": "second/greetings", "fChild": {"fString": "first/hello"}});
    let uri = CHILD_FIRST.replace("{fChild.fString}", "{info.f_child.f_string=first/*}");
    let suite = json!({"group": [
        {"rpcs": all, "requests": [{"name": "all", "info": info, "fInt64": "-110", "pDouble": -61.73}]},
        {"rpcs": ["RepeatDataPathResource"], "requests": [
            {"name": "resource", "info": resource},
            {"name": "child first", "info": child_first, "intendedBindingUri": uri},
        ]},
    ]});
    (suite, 8)
}

#[tokio::test]
async fn every_request_is_returned_unchanged() {
    let descriptors = compile("compliance");
    let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
    let request = pool.get_message_by_name("foreign.compliance.v1.RepeatRequest").unwrap();
    let backend =
        backend::serve(|call| call.path.contains(".Compliance/").then(|| Reply::message(wrapped(&call.message)))).await;
    let (_folder, program) = serving(&descriptors, &backend);
    let gateway = Gateway::start(program.arg("--public")).await;
    let (suite, expected) = suite();
    let mut sent = 0;
    for group in suite["group"].as_array().unwrap() {
        for rpc in group["rpcs"].as_array().unwrap() {
            let name = rpc.as_str().unwrap().trim_start_matches("Compliance.");
            let rpc = RPCS.iter().find(|rpc| rpc.name == name).unwrap_or_else(|| panic!("no RPC {name}"));
            for case in group["requests"].as_array().unwrap() {
                let answer = send(&gateway, rpc, case).await;
                let what = format!("{name}: {}", case["name"]);
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
                let (back, meant) = (read(&request, &answer.json()["request"]), read(&request, case));
                assert_eq!(back, meant, "{what}");
                sent += 1;
            }
        }
    }
    assert_eq!(sent, expected);
}

/// A response with the encoded request as its field 1.
fn wrapped(request: &[u8]) -> Bytes {
    let mut response = BytesMut::new();
    response.put_u8(0x0a);
    prost::encoding::encode_varint(request.len() as u64, &mut response);
    response.put_slice(request);
    response.freeze()
}

/// Encodes JSON as a message, so that a written default equals an omitted one. prost-reflect's own reader refuses the
/// usual form of the largest float, so this uses souk's.
fn read(descriptor: &MessageDescriptor, json: &Value) -> Vec<u8> {
    let binding = Binding::new(descriptor, descriptor, [], "*", "").unwrap();
    let body = json.to_string();
    let parts = Parts { captures: &[], query: "", body: body.as_bytes(), content_type: "" };
    binding.bind(parts).unwrap_or_else(|error| panic!("{error}: {json}")).encode_to_vec()
}

async fn send(gateway: &Gateway, rpc: &Rpc, case: &Value) -> crate::boot::Answer {
    let child_first = case["intendedBindingUri"].as_str().is_some_and(|uri| uri.contains("childfirst"));
    let mut path = if child_first { CHILD_FIRST } else { rpc.path }.to_owned();
    let mut fields = case.as_object().unwrap().clone();
    let body = match rpc.body {
        Body::All => Some(Value::Object(std::mem::take(&mut fields))),
        Body::Info => fields.remove("info"),
        Body::None => None,
    };
    let info = fields.get_mut("info").and_then(Value::as_object_mut);
    let mut nothing = Map::new();
    let info = info.unwrap_or(&mut nothing);
    let resource = rpc.name == "RepeatDataPathResource";
    while let Some((before, rest)) = path.split_once('{') {
        let (field, after) = rest.split_once('}').unwrap();
        let value = match field.split_once('.') {
            Some((outer, inner)) => info[outer].as_object_mut().and_then(|outer| outer.remove(inner)),
            None => info.remove(field),
        };
        // The segments of a resource name stay separate. A missing field has its default.
        let text = value.as_ref().map_or_else(|| default(field).to_owned(), text);
        let escaped = if resource { text } else { escape(&text) };
        path = format!("{before}{escaped}{after}");
    }
    let mut query = Vec::new();
    flatten("", &Value::Object(fields), &mut query);
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    let request = gateway.request(rpc.http_method, &format!("{path}?{}", query.join("&")));
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(body.to_string()),
        None => request,
    };
    gateway.send(request).await
}

fn default(field: &str) -> &'static str {
    match field {
        "fBool" => "false",
        "fKingdom" => "LIFE_KINGDOM_UNSPECIFIED",
        _ => "0",
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn flatten(path: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            flatten(&path, value, into);
        }),
        value => into.push((path.to_owned(), text(value))),
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
