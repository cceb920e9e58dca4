//! The largest request of each method: every request that its rules allow is accepted, and larger ones than its
//! contract allows are not.

use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Value as Json, json};
use souk_common::{
    contract::{Contract, DEFAULT_MAX_REQUEST_BYTES, Method},
    error::{Problem, Reason},
};
use souk_proto::user::v1::{LogInRequest, session_service_client::SessionServiceClient};
use tonic::Code;

use super::{cluster::Up, rest::Rest};

/// The default of `server.max_request_bytes`: no method accepts more, whatever its rules allow.
const MOST: usize = 4 << 20;
/// The assumed characters of a text without a rule, such as an etag.
const NO_RULE: usize = 64;
/// The assumed items of a list without a rule.
const NO_SIZE: usize = 100;
/// The most bytes of a character if a client writes JSON in ASCII: `\ud83d\ude00`.
const CHARACTER: usize = 12;
/// The assumed bytes of a `FieldMask`.
const MASK: usize = 1024;

/// Computes the largest JSON of a message, indented as tools do. Its protobuf is smaller.
struct Sizes {
    rules: ExtensionDescriptor,
}

impl Sizes {
    /// The largest JSON of a message; `None` if it has no limit.
    fn message(&self, message: &MessageDescriptor, depth: usize) -> Option<usize> {
        match message.full_name() {
            "google.protobuf.Timestamp" | "google.protobuf.Duration" => return Some(40),
            "google.protobuf.FieldMask" => return Some(MASK),
            "google.protobuf.Any" | "google.protobuf.Struct" | "google.api.HttpBody" => return None,
            // A currency code of three letters, and two numbers.
            "google.type.Money" => return Some(120),
            _ => {}
        }
        let members = message.fields().map(|field| self.member(&field, depth + 1));
        members.sum::<Option<usize>>().map(|members| members + line(depth) + 2).filter(|_| depth < 20)
    }

    /// The largest text of `"name": value,`.
    fn member(&self, field: &FieldDescriptor, depth: usize) -> Option<usize> {
        let rules = field.options().get_extension(&self.rules).as_message().cloned();
        let name = line(depth) + field.json_name().len() + 5;
        assert!(!field.is_map(), "{}: say here how large a map can be", field.full_name());
        if !field.is_list() {
            return Some(name + self.value(field, rules.as_ref(), depth)?);
        }
        let items = number(rules.as_ref(), &["repeated", "max_items"]).unwrap_or(NO_SIZE);
        let rules = rules.and_then(|rules| at(&rules, &["repeated", "items"])?.as_message().cloned());
        let item = line(depth + 1) + self.value(field, rules.as_ref(), depth + 1)? + 1;
        Some(name + items.saturating_mul(item) + line(depth) + 2)
    }

    fn value(&self, field: &FieldDescriptor, rules: Option<&DynamicMessage>, depth: usize) -> Option<usize> {
        match field.kind() {
            Kind::Message(message) => self.message(&message, depth),
            Kind::String => Some(2 + text(rules)),
            Kind::Bytes => None,
            Kind::Enum(kind) => kind.values().map(|value| value.name().len() + 2).max(),
            // The longest number, in quotes.
            _ => Some(26),
        }
    }
}

/// The line break and the indentation of a line.
fn line(depth: usize) -> usize {
    1 + 2 * depth
}

fn text(rules: Option<&DynamicMessage>) -> usize {
    let pattern = rules.and_then(|rules| Some(at(rules, &["string", "pattern"])?.as_str()?.to_owned()));
    let longest = pattern.and_then(|pattern| regex_syntax::parse(&pattern).ok()?.properties().maximum_len());
    let longest = longest.or_else(|| Some(number(rules, &["string", "max_len"])? * CHARACTER));
    longest.unwrap_or(NO_RULE * CHARACTER)
}

fn number(rules: Option<&DynamicMessage>, path: &[&str]) -> Option<usize> {
    usize::try_from(at(rules?, path)?.as_u64()?).ok()
}

/// A value in a rule, if it is set.
fn at(rules: &DynamicMessage, path: &[&str]) -> Option<Value> {
    let (name, inside) = path.split_first()?;
    let value = rules.has_field_by_name(name).then(|| rules.get_field_by_name(name))??.into_owned();
    if inside.is_empty() { Some(value) } else { at(value.as_message()?, inside) }
}

#[test]
fn every_method_accepts_the_largest_request_that_its_rules_allow() {
    let contract = Contract::souk().unwrap();
    let sizes = Sizes { rules: contract.pool().get_extension_by_name("buf.validate.field").unwrap() };
    let default = usize::try_from(DEFAULT_MAX_REQUEST_BYTES).unwrap();
    let mut wrong = Vec::new();
    for method in contract.methods().filter(|method| method.service.starts_with("souk.")) {
        let Method { path, max_request_bytes, .. } = &**method;
        let limit = max_request_bytes.unwrap();
        match sizes.message(&method.descriptor.input(), 0) {
            None if limit == default => wrong.push(format!("{path}: its request may be of any size: say how large")),
            Some(most) if limit < most.min(MOST) => wrong.push(format!("{path}: takes {limit} bytes, may get {most}")),
            Some(most) if limit > default && most < default => {
                wrong.push(format!("{path}: takes {limit} bytes, and {most} are the most: leave the limit out"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let get = contract.pool().get_message_by_name("souk.order.v1.GetOrderRequest").unwrap();
    let largest = serde_json::to_string_pretty(&json!({ "name": format!("orders/ord_{}", "0".repeat(26)) })).unwrap();
    let reckoned = sizes.message(&get, 0).unwrap();
    assert!((largest.len()..largest.len() + 5).contains(&reckoned), "{reckoned}, and {largest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_the_limit_of_its_method_is_refused_everywhere() {
    let up = Up::start().await;
    let anyone = Rest::anonymous(&up.gateway);
    let padded = |bytes: usize| json!({ "email": "ann@example.com", "password": "x".repeat(bytes) });
    let looked_at = anyone.post("/v1/sessions:logIn", padded(60_000)).await;
    assert_eq!(looked_at.problem(400), "FIELD_INVALID");
    let refused = anyone.post("/v1/sessions:logIn", padded(70_000)).await;
    assert_eq!(refused.problem(413), "BODY_TOO_LARGE");
    assert_eq!(refused.body["metadata"]["limitBytes"], "65536");
    for address in [up.gateway.clone(), up.service("user")] {
        let mut sessions = SessionServiceClient::connect(address.clone()).await.unwrap();
        for (bytes, code, reason) in [
            (60_000, Code::InvalidArgument, Reason::FieldInvalid),
            (70_000, Code::ResourceExhausted, Reason::BodyTooLarge),
        ] {
            let request = LogInRequest { password: "x".repeat(bytes), ..LogInRequest::default() };
            let status = sessions.log_in(request).await.unwrap_err();
            assert_eq!((status.code(), Problem::from_status(&status).reason()), (code, reason), "{address}: {bytes}");
        }
    }

    // Batch methods accept many items.
    let admin = up.admin().await;
    let product = |number: usize| {
        let price = json!({ "currencyCode": "GBP", "units": "2" });
        json!({ "sku": format!("S{number}"), "title": "Cup", "description": "x".repeat(2000), "price": price })
    };
    let many: Vec<Json> = (0..1000).map(product).collect();
    let answer = admin.post("/v1/products:batchUpsert", json!({ "products": many })).await.ok();
    assert_eq!(answer["results"].as_array().unwrap().len(), 1000, "{answer}");
}
