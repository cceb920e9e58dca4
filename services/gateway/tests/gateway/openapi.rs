//! The OpenAPI document: docs/openapi.json equals souk's contracts (`SOUK_UPDATE_DOCS=1 cargo test -p souk-gateway
//! --test gateway openapi` regenerates it), and its statements are true.

use std::{fs, path::Path};

use serde_json::{Value, json};
use souk_common::contract::{Contract, validate::Text};
use souk_gateway::{
    openapi,
    routes::Routes,
    transcode::{Parts, fill},
};

use crate::boot;

fn souk() -> (Value, Routes) {
    let contract = Contract::souk().unwrap();
    let routes = Routes::of(contract).unwrap();
    (openapi::document(contract, &routes), routes)
}

#[test]
fn the_document_in_the_repository_equals_the_contracts() {
    let made = format!("{:#}\n", souk().0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("SOUK_UPDATE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    // Not assert_eq, whose output of two such documents would be too long.
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let at = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    assert!(kept == made, "docs/openapi.json differs from line {at:?}: run this test with SOUK_UPDATE_DOCS=1");
}

/// Resolves a reference.
fn resolve<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}")),
        None => schema,
    }
}

/// Every reference in a value.
fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, into));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, into)),
        _ => {}
    }
}

/// The example that a viewer shows, with all required fields.
fn example(document: &Value, schema: &Value) -> Value {
    let schema = resolve(document, schema);
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    let kind = schema["type"].as_str().or(schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "object" => {
            let names = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
            names.map(|name| (name.to_owned(), example(document, &schema["properties"][name]))).collect()
        }
        "array" => json!([example(document, &schema["items"])]),
        "string" => json!("text of some length"),
        "integer" | "number" => json!(0),
        "boolean" => json!(false),
        other => panic!("no example for {other}: {schema}"),
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let items = document["paths"].as_object().unwrap().iter();
    items.flat_map(|(path, item)| {
        let named = item.as_object().unwrap().iter().filter(|(verb, _)| !verb.starts_with("x-"));
        named.map(move |(verb, operation)| (path.as_str(), verb.as_str(), operation))
    })
}

#[test]
fn every_reference_resolves_and_every_operation_id_is_unique() {
    for document in [souk().0, echo()] {
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            resolve(&document, &json!({"$ref": reference}));
        }
        let ids: Vec<_> = operations(&document).map(|(_, _, operation)| &operation["operationId"]).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len(), "{ids:?}");
        for (path, _, operation) in operations(&document) {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let names: Vec<_> = parameters
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let braces: Vec<_> = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
            assert_eq!(names, braces, "{path}");
        }
    }
}

#[test]
fn the_gateway_accepts_the_examples_of_its_own_document() {
    let (document, routes) = souk();
    let contract = Contract::souk().unwrap();
    let mut seen = 0;
    for (path, verb, operation) in operations(&document) {
        let mut url = path.to_owned();
        let mut query = Vec::new();
        let mut headers = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = resolve(&document, parameter);
            let example = example(&document, &parameter["schema"]);
            let text = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            match (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap()) {
                ("path", name) => url = url.replace(&format!("{{{name}}}"), &text),
                ("query", name) if parameter["schema"]["examples"].is_array() => {
                    let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
                    query.push(format!("{name}={escaped}"));
                }
                ("query", name) => assert!(
                    parameter["required"] != true,
                    "{path}: the query parameter {name} is required and has no example: write one in the comment of its \
                     field, such as: For example `INV-7`."
                ),
                ("header", name) => headers.push((name.to_owned(), text)),
                _ => {}
            }
        }
        let content = &operation["requestBody"]["content"];
        let schema = &content["application/json"]["schema"];
        let body = match (schema.is_null(), content["application/octet-stream"].is_null()) {
            (false, _) => example(&document, schema).to_string(),
            (true, false) => "anything".to_owned(),
            (true, true) => String::new(),
        };
        let method = verb.to_uppercase().parse().unwrap();
        let matched = routes.find(&method, &url).unwrap();
        let query = query.join("&");
        let parts = Parts { captures: &matched.captures, query: &query, body: body.as_bytes(), content_type: "" };
        let mut message =
            matched.route.binding.bind(parts).unwrap_or_else(|error| panic!("{url}?{query} {body}: {error:?}"));
        for header in &matched.route.method.headers {
            let (name, text) = headers.iter().find(|(name, _)| *name == header.name).unwrap();
            fill(&mut message, &header.field, name, text).unwrap();
        }
        contract.validator().check(&message).unwrap_or_else(|error| panic!("{url}?{query} {body}: {error:?}"));
        assert_eq!(operation["x-souk-method"], matched.route.method.path, "{url}");
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
}

fn echo() -> Value {
    let contract = boot::contract();
    openapi::document(&contract, &Routes::of(&contract).unwrap())
}

/// Everything in `left` must be in `right`, which may have more.
fn is_within(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            left.iter().all(|(key, value)| right.get(key).is_some_and(|other| is_within(value, other)))
        }
        _ => left == right,
    }
}

#[test]
fn types_and_rules_become_json_schema() {
    let document = echo();
    let int64 = json!({"type": ["string", "null"], "format": "int64", "pattern": "^-?[0-9]{1,18}$"});
    let table = [
        // Requests: one form of each value, among those that the gateway accepts.
        ("/components/schemas/KindsInput/properties/int64", int64),
        ("/components/schemas/KindsInput/properties/uint32/type", json!(["integer", "null"])),
        // Enums by name only: the gateway accepts numbers, too, but generators cannot make types for both.
        (
            "/components/schemas/KindsInput/properties/color/anyOf/0",
            json!({"$ref": "#/components/schemas/Kinds.Color"}),
        ),
        ("/components/schemas/KindsInput/properties/colors/items", json!({"$ref": "#/components/schemas/Kinds.Color"})),
        ("/components/schemas/Kinds.Color/enum/1", json!("COLOR_RED")),
        ("/components/schemas/Kinds.Color/x-enum-varnames/1", json!("KINDS_COLOR_RED")),
        ("/components/schemas/KindsInput/properties/time", json!({"type": ["string", "null"], "format": "date-time"})),
        ("/components/schemas/KindsInput/properties/left", json!({"type": "string"})),
        ("/components/schemas/KindsInput/properties/int64Value/format", json!("int64")),
        ("/components/schemas/KindsInput/allOf/0/oneOf/1", json!({"required": ["right"]})),
        ("/components/schemas/KindsInput/additionalProperties", json!(false)),
        ("/components/schemas/KindsInput/properties/byNumber/propertyNames", json!({"pattern": "^-?[0-9]{1,18}$"})),
        (
            "/components/schemas/ThingInput/properties/inside/anyOf/0",
            json!({"$ref": "#/components/schemas/ThingInput"}),
        ),
        // Responses: each value has one form and is always present.
        (
            "/components/schemas/Kinds/properties/int64",
            json!({"type": "string", "format": "int64", "pattern": "^-?(?:0|[1-9][0-9]{0,19})$"}),
        ),
        ("/components/schemas/Kinds/properties/color", json!({"$ref": "#/components/schemas/Kinds.Color"})),
        (
            "/components/schemas/Kinds/properties/things/additionalProperties",
            json!({"$ref": "#/components/schemas/Thing"}),
        ),
        ("/components/schemas/Kinds/properties/nothing", json!({"type": "null"})),
        ("/components/schemas/Reply/required", json!(["method", "headers", "tags", "etag"])),
        // Rules.
        ("/components/schemas/CheckedRequest.Inner.Item/required", json!(["quantity"])),
        ("/components/schemas/CheckedRequest.Inner.Item/properties/quantity/minimum", json!(1)),
        ("/paths/~1test~1v1~1checked~1{id}/post/parameters/0/schema/pattern", json!("^id_[0-9]+$")),
        (
            "/paths/~1test~1v1~1checked~1{id}/post/parameters/1",
            json!({"name": "pageSize", "schema": {"type": "integer", "minimum": 0}}),
        ),
        ("/paths/~1test~1v1~1checked~1{id}/post/requestBody/required", json!(true)),
        // Routes.
        ("/paths/~1test~1v1~1reports/x-additional-operations/REPORT/operationId", json!("EchoService_Report")),
        (
            "/paths/~1test~1v1~1watch/get/responses/200/content/application~1x-ndjson",
            json!({"x-item-schema": {"$ref": "#/components/schemas/Reply"}}),
        ),
        ("/paths/~1test~1v1~1signedIn/get/security", json!([{"bearer": []}])),
        ("/paths/~1test~1v1~1watch/get/security", json!([{}, {"bearer": []}])),
        ("/paths/~1test~1v1~1everything/post/x-souk-idempotency-key", json!("request_id")),
    ];
    for (pointer, expected) in table {
        let there = document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"));
        assert!(is_within(&expected, there), "{pointer}: {there:#}");
    }
    assert!(document["paths"].get("/test/v1/internal").is_none(), "clients cannot call it");
}

#[test]
fn fields_of_nested_messages_are_query_parameters() {
    let document = echo();
    let parameters = document["paths"]["/test/v1/watch"]["get"]["parameters"].as_array().unwrap();
    let names: Vec<_> = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
    for name in ["name", "kinds.middle.title", "kinds.colors", "kinds.time", "kinds.mask", "kinds.int64Value", "tags"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    // A query cannot contain these.
    for name in ["kinds.struct", "kinds.things", "kinds.listOfThings", "thing.counts"] {
        assert!(!names.contains(&name), "{name}");
    }
    let tags = parameters.iter().find(|parameter| parameter["name"] == "tags").unwrap();
    assert_eq!((&tags["explode"], &tags["schema"]["type"]), (&json!(true), &json!("array")));
}

#[tokio::test]
async fn the_gateway_serves_the_document() {
    let served = boot::boot().await.get("/openapi.json").await.ok();
    assert_eq!(served, echo());
}

#[test]
fn a_body_of_any_kind_and_a_header_that_is_a_field_are_documented() {
    let contract = boot::contract();
    let routes = Routes::of(&contract).unwrap();
    let document = openapi::document(&contract, &routes);
    let receive = &document["paths"]["/test/v1/received/{name}:take"]["post"];
    let content = json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
    assert_eq!((&receive["requestBody"]["required"], &receive["requestBody"]["content"]), (&json!(true), &content));
    let named: Vec<_> = receive["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["name"], &one["in"], &one["required"]))
        .collect();
    assert_eq!(
        named,
        [(&json!("name"), &json!("path"), &json!(true)), (&json!("x-signature"), &json!("header"), &json!(true)),]
    );
    assert_eq!(document["paths"]["/test/v1/received"]["post"]["requestBody"]["required"], false);
}

/// Finds the parts of a schema from which generators cannot make types.
fn unusable(at: &str, value: &Value, faults: &mut Vec<String>) {
    if let Value::Object(members) = value {
        let others = |list: &Value| list.as_array().into_iter().flatten().filter(|one| **one != json!("null")).count();
        if others(&value["type"]) > 1 {
            faults.push(format!("{at} is of several types"));
        }
        if value["enum"].as_array().into_iter().flatten().any(|one| !one.is_string() && !one.is_null()) {
            faults.push(format!("{at} has values that are not text"));
        }
        let choices = value["anyOf"].as_array().into_iter().flatten();
        if choices.filter(|choice| choice["type"] != "null").count() > 1 {
            faults.push(format!("{at} is one of several"));
        }
        if let Some(content) = value["content"].as_object() {
            let known = ["application/json", "application/problem+json", "application/octet-stream"];
            let streams = ["text/event-stream", "application/x-ndjson"];
            for (media, inner) in content {
                if inner["schema"].is_null() || !known.iter().chain(&streams).any(|known| known == media) {
                    faults.push(format!("{at} has the content {media}, without a schema or unknown"));
                }
            }
        }
        for (key, inner) in members {
            // An example is not a schema.
            if key != "examples" {
                unusable(&format!("{at}/{key}"), inner, faults);
            }
        }
    } else if let Value::Array(items) = value {
        items.iter().enumerate().for_each(|(index, inner)| unusable(&format!("{at}/{index}"), inner, faults));
    }
}

/// Finds at once what `.ci/generated` finds with real generators: each value must have one form, and the constants of
/// all enums must have unique names.
#[test]
fn types_can_be_generated_from_every_schema() {
    let (document, _) = souk();
    let mut faults = Vec::new();
    unusable("", &document, &mut faults);
    assert_eq!(faults, Vec::<String>::new());
    let mut constants = std::collections::BTreeMap::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let named = schema.get("x-enum-varnames").or(schema.get("enum")).and_then(Value::as_array);
        for constant in named.into_iter().flatten() {
            let other = constants.insert(constant.to_string(), name);
            assert_eq!(other, None, "{constant} is of {name}, too");
        }
    }
    assert!(constants.len() > 50, "{constants:?}");
}

/// Texts without another pattern have one for their characters: single-line texts and free texts.
#[test]
fn texts_have_a_pattern_of_their_characters() {
    let (document, _) = souk();
    let (line, free) = (Text::Line.pattern(), Text::Free.pattern());
    for (pointer, expected) in [
        ("/components/schemas/ProductInput/properties/title", line),
        ("/components/schemas/ProductInput/properties/description", free),
        ("/components/schemas/ProductInput/properties/etag", line),
        ("/components/schemas/AddressInput/properties/addressLines/items", line),
        ("/components/schemas/RegisterRequest/properties/password", line),
        (
            "/components/schemas/BatchUpsertProductsRequest/properties/updateMask",
            "^(?:(?:title|description|price|lowStockThreshold)(?:,(?:title|description|price|lowStockThreshold))*)?$",
        ),
        (
            "/paths/~1v1~1orders~1{order}:addNote/post/requestBody/content/application~1json/schema/properties/text",
            free,
        ),
    ] {
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"));
        assert_eq!(schema["pattern"], expected, "{pointer}");
    }
    assert!(document.pointer("/components/schemas/Product/properties/title/pattern").is_none(), "answers stay open");
}
