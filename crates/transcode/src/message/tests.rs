//! Binding and JSON with the test contract: a table of the specifications' cases, and checks that no input causes a
//! panic.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Value, json};

use super::*;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let third_party = format!("{root}/third_party");
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../services/gateway/tests/proto");
    let mut compiler = protox::Compiler::new([own, root, &third_party]).unwrap();
    compiler.include_imports(true).open_file("souk/test/v1/echo.proto").unwrap();
    DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap()
});

fn message_type(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("souk.test.v1.{name}")).unwrap()
}

fn binding(variables: &[&str], body: &str, response_body: &str) -> Binding {
    Binding::new(&message_type("Request"), &message_type("Reply"), variables.iter().copied(), body, response_body)
        .unwrap()
}

/// The JSON of a message without default values, which is easy to compare.
fn plain(message: &DynamicMessage) -> Value {
    serde_json::to_value(message).unwrap()
}

fn bind(binding: &Binding, captures: &[&str], query: &str, body: &str) -> Result<Value, BindError> {
    let captures: Vec<String> = captures.iter().map(|text| (*text).to_owned()).collect();
    binding
        .bind(Parts { captures: &captures, query, body: body.as_bytes(), content_type: "" })
        .map(|message| plain(&message))
}

fn from_query(query: &str) -> Result<Value, BindError> {
    bind(&binding(&["name"], "", ""), &["things/1"], query, "").map(|mut value| value["kinds"].take())
}

fn from_body(kinds: &str) -> Result<Value, BindError> {
    bind(&binding(&[], "*", ""), &[], "", &format!(r#"{{"kinds": {kinds}}}"#)).map(|mut value| value["kinds"].take())
}

#[track_caller]
fn fault(result: Result<Value, BindError>) -> (Reason, String, String) {
    let error = result.unwrap_err();
    let (path, detail) = match &error {
        BindError::Fields(found) => (found.list()[0].path.clone(), found.list()[0].detail.clone()),
        other => (String::new(), other.to_string()),
    };
    (reason(&error), path, detail)
}

/// The reason in an error, which a client uses to decide what to do.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    MalformedRequest,
    UnknownField,
}

fn reason(error: &BindError) -> Reason {
    match error {
        BindError::Fields(found) if found.first().unwrap().unknown => Reason::UnknownField,
        _ => Reason::MalformedRequest,
    }
}

/// Bytes of all violations in a response.
fn told(error: &BindError) -> usize {
    let BindError::Fields(found) = error else { panic!("{error}") };
    let fields = found.list().iter().map(|violation| violation.path.len() + violation.detail.len());
    error.to_string().len() + fields.sum::<usize>()
}

#[test]
fn valid_proto3_json_is_accepted() {
    let table = [
        (r#"{"int64": "9223372036854775807"}"#, json!({"int64": "9223372036854775807"})),
        (r#"{"int64": 5}"#, json!({"int64": "5"})),
        (r#"{"int32": 1e3}"#, json!({"int32": 1000})),
        (r#"{"int32": "5.0"}"#, json!({"int32": 5})),
        (r#"{"uint64": "18446744073709551615"}"#, json!({"uint64": "18446744073709551615"})),
        (r#"{"uint64": 18446744073709551615}"#, json!({"uint64": "18446744073709551615"})),
        // Numbers are read exactly, however they are written.
        (r#"{"int64": 9223372036854775807.0}"#, json!({"int64": "9223372036854775807"})),
        (r#"{"int64": "9223372036854775807.0"}"#, json!({"int64": "9223372036854775807"})),
        (r#"{"int64": -9223372036854775808}"#, json!({"int64": "-9223372036854775808"})),
        (r#"{"int64": 9007199254740993.0}"#, json!({"int64": "9007199254740993"})),
        (r#"{"int64Value": "9007199254740993.0"}"#, json!({"int64Value": "9007199254740993"})),
        (r#"{"sint64": 900719925474099.3e1}"#, json!({"sint64": "9007199254740993"})),
        (r#"{"fixed64": 1844674407370955161.5e1}"#, json!({"fixed64": "18446744073709551615"})),
        (r#"{"numbers": [9007199254740993.0]}"#, json!({"numbers": ["9007199254740993"]})),
        (r#"{"byNumber": {"9007199254740993": "x"}}"#, json!({"byNumber": {"9007199254740993": "x"}})),
        (r#"{"int32": -0, "uint32": -0, "int64": 1E+2}"#, json!({"int64": "100"})),
        (r#"{"color": 1.0}"#, json!({"color": "COLOR_RED"})),
        (r#"{"double": "NaN", "float": "-Infinity"}"#, json!({"double": "NaN", "float": "-Infinity"})),
        // Doubles are read to the last bit.
        (r#"{"double": -6.136841772495593e+258}"#, json!({"double": -6.136841772495593e258})),
        (r#"{"double": 1, "float": "1.5"}"#, json!({"double": 1.0, "float": 1.5})),
        (r#"{"bytes": "_-8"}"#, json!({"bytes": "/+8="})),
        (r#"{"bytes": "/+8="}"#, json!({"bytes": "/+8="})),
        (r#"{"color": "COLOR_RED"}"#, json!({"color": "COLOR_RED"})),
        (r#"{"color": 2}"#, json!({"color": "COLOR_GREEN"})),
        (r#"{"color": 77}"#, json!({"color": 77})),
        (r#"{"time": "2026-01-31T12:00:00.5Z"}"#, json!({"time": "2026-01-31T12:00:00.500Z"})),
        (r#"{"time": "2026-01-31T14:00:00+02:00"}"#, json!({"time": "2026-01-31T12:00:00Z"})),
        (r#"{"duration": "-1.5s"}"#, json!({"duration": "-1.500s"})),
        (r#"{"mask": "displayName,price.units"}"#, json!({"mask": "displayName,price.units"})),
        (r#"{"struct": {"a": [1, null, {"b": true}]}}"#, json!({"struct": {"a": [1.0, null, {"b": true}]}})),
        (r#"{"value": null}"#, json!({"value": null})),
        (r#"{"value": [1]}"#, json!({"value": [1.0]})),
        (r#"{"list": ["a", null]}"#, json!({"list": ["a", null]})),
        (r#"{"empty": {}}"#, json!({"empty": {}})),
        (r#"{"duration": "-0.5s"}"#, json!({"duration": "-0.500s"})),
        (r#"{"time": "2026-01-31T12:00:00.123456789Z"}"#, json!({"time": "2026-01-31T12:00:00.123456789Z"})),
        (r#"{"mask": ""}"#, json!({"mask": ""})),
        (
            r#"{"value": {"a": [], "b": {}, "c": 1e3, "d": "x"}}"#,
            json!({"value": {"a": [], "b": {}, "c": 1000.0, "d": "x"}}),
        ),
        (
            r#"{"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}"#,
            json!({"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}),
        ),
        (r#"{"int64Value": "7", "boolValue": false}"#, json!({"int64Value": "7", "boolValue": false})),
        // The contract's own field names are accepted, too.
        (r#"{"int64_value": 7}"#, json!({"int64Value": "7"})),
        (r#"{"int64Value": null, "left": null, "numbers": null, "byNumber": null}"#, json!({})),
        (r#"{"left": null, "right": 0}"#, json!({"right": 0})),
        (r#"{"maybe": 0}"#, json!({"maybe": 0})),
        (r#"{"things": {"a": {"title": "t"}}}"#, json!({"things": {"a": {"title": "t"}}})),
        (
            r#"{"byNumber": {"-3": "x"}, "byBool": {"true": "COLOR_RED"}}"#,
            json!({"byNumber": {"-3": "x"}, "byBool": {"true": "COLOR_RED"}}),
        ),
        (r#"{"nothing": null}"#, json!({})),
        (r#"{"string": "\u0000\ud83d\ude00"}"#, json!({"string": "\u{0}😀"})),
    ];
    for (body, expected) in table {
        match from_body(body) {
            Ok(value) if value.is_null() => assert_eq!(json!({}), expected, "{body}"),
            Ok(value) => assert_eq!(value, expected, "{body}"),
            Err(error) => panic!("{body}: {error}"),
        }
    }
}

#[test]
fn invalid_json_is_refused() {
    let table = [
        (r#"{"int32": 1.5}"#, "kinds.int32", "must be a whole number from -2147483648 to 2147483647"),
        (r#"{"int32": 2147483648}"#, "kinds.int32", "must be a whole number"),
        (r#"{"int32": "abc"}"#, "kinds.int32", "must be a whole number"),
        (r#"{"int32": "+5"}"#, "kinds.int32", "must be a whole number"),
        (r#"{"int32": true}"#, "kinds.int32", "must be a whole number"),
        (r#"{"int64": 9.3e18}"#, "kinds.int64", "must be a whole number"),
        (
            r#"{"int64": "-9223372036854775809"}"#,
            "kinds.int64",
            "must be a whole number from -9223372036854775808 to 9223372036854775807",
        ),
        (r#"{"int64": -9223372036854775809}"#, "kinds.int64", "must be a whole number from -9223372036854775808"),
        (r#"{"int64": 9223372036854775807.5}"#, "kinds.int64", "must be a whole number"),
        (r#"{"int64": 9007199254740993.00001}"#, "kinds.int64", "must be a whole number"),
        (r#"{"int64": 1e400}"#, "kinds.int64", "must be a whole number"),
        (r#"{"int64Value": "9223372036854775808"}"#, "kinds.int64_value", "must be a whole number"),
        (
            r#"{"uint64": 18446744073709551616}"#,
            "kinds.uint64",
            "must be a whole number from 0 to 18446744073709551615",
        ),
        (r#"{"numbers": [1, 9223372036854775808]}"#, "kinds.numbers[1]", "must be a whole number"),
        (
            r#"{"byNumber": {"-9223372036854775809": "y"}}"#,
            r#"kinds.by_number["-9223372036854775809"]"#,
            "has a key that must be a whole number",
        ),
        (r#"{"color": 2147483648}"#, "kinds.color", "must be one of"),
        (r#"{"int64": [1]}"#, "kinds.int64", "must be a whole number"),
        (r#"{"int64": {"a": {}}}"#, "kinds.int64", "must be a whole number"),
        (r#"{"double": 1e400}"#, "kinds.double", "must be a number"),
        (r#"{"double": "1."}"#, "kinds.double", "must be a number"),
        (r#"{"uint32": -1}"#, "kinds.uint32", "must be a whole number from 0"),
        (r#"{"float": 1e39}"#, "kinds.float", "must be a number"),
        (r#"{"double": "inf"}"#, "kinds.double", "must be a number"),
        (r#"{"double": "1e999"}"#, "kinds.double", "must be a number"),
        (r#"{"bool": "true"}"#, "kinds.bool", "must be true or false"),
        (r#"{"bool": 1}"#, "kinds.bool", "must be true or false"),
        (r#"{"string": 5}"#, "kinds.string", "must be a string"),
        (r#"{"string": {"a": 1}}"#, "kinds.string", "must be a string"),
        (r#"{"bytes": "*"}"#, "kinds.bytes", "must be a string in base64"),
        (
            r#"{"color": "COLOR_RAD"}"#,
            "kinds.color",
            "must be one of COLOR_UNSPECIFIED, COLOR_RED, COLOR_GREEN; did you mean COLOR_RED?",
        ),
        (r#"{"color": 1.5}"#, "kinds.color", "must be one of"),
        (r#"{"colors": "COLOR_RED"}"#, "kinds.colors", "must be an array"),
        (r#"{"colors": ["COLOR_RED", null]}"#, "kinds.colors[1]", "must not be null"),
        (r#"{"colors": [["COLOR_RED"]]}"#, "kinds.colors[0]", "must be one of"),
        (r#"{"time": "yesterday"}"#, "kinds.time", "must be a time such as"),
        (r#"{"time": "2026-02-30T00:00:00Z"}"#, "kinds.time", "must be a time such as"),
        (r#"{"time": 5}"#, "kinds.time", "must be a time such as"),
        (
            r#"{"time": "2016-12-31T23:59:60Z"}"#,
            "kinds.time",
            "must be a time such as 2026-01-31T12:00:00Z, with a second",
        ),
        (
            r#"{"time": "2026-01-31T12:00:00.1234567891Z"}"#,
            "kinds.time",
            "must be a time such as 2026-01-31T12:00:00Z, with at most 9 digits",
        ),
        (
            r#"{"duration": "1.0000000001s"}"#,
            "kinds.duration",
            "must be a duration in seconds such as 1.5s, with at most 9",
        ),
        (r#"{"duration": "315576000001s"}"#, "kinds.duration", "must be a duration of at most"),
        (r#"{"duration": 1}"#, "kinds.duration", "must be a duration"),
        (r#"{"mask": "a,,b"}"#, "kinds.mask", "must be field names"),
        (r#"{"mask": ","}"#, "kinds.mask", "must be field names"),
        (r#"{"mask": "a..b"}"#, "kinds.mask", "must be field names"),
        (r#"{"struct": {"a": 1, "a": 2}}"#, r#"kinds.struct["a"]"#, "is given twice"),
        (r#"{"struct": {"a": {"b": [{"c": 1, "c": 1}]}}}"#, r#"kinds.struct["a"]["b"][0]["c"]"#, "is given twice"),
        (r#"{"value": {"a": 1, "a": 2}}"#, r#"kinds.value["a"]"#, "is given twice"),
        (r#"{"list": [{"a": 1, "a": 2}]}"#, r#"kinds.list[0]["a"]"#, "is given twice"),
        (
            r#"{"any": {"@type": "a/google.protobuf.Duration", "value": "1s", "value": "2s"}}"#,
            "kinds.any.value",
            "is given twice",
        ),
        (
            r#"{"any": {"title": "a", "@type": "a/souk.test.v1.Thing", "title": "b"}}"#,
            "kinds.any.title",
            "is given twice",
        ),
        (r#"{"any": {"@type": "a/google.protobuf.Duration"}}"#, "kinds.any.value", "must be there"),
        (r#"{"any": {"@type": "a/google.protobuf.Duration", "value": null}}"#, "kinds.any.value", "must be a duration"),
        (r#"{"any": {"value": "1s"}}"#, "kinds.any.@type", "must be there"),
        (r#"{"any": {"@type": 5}}"#, "kinds.any.@type", "must be there"),
        (
            r#"{"any": {"@type": "google.protobuf.Duration", "value": "1s"}}"#,
            "kinds.any",
            "must be an object with an `@type`",
        ),
        (r#"{"any": {"@type": "a/souk.test.v1.Thing", "title": 5}}"#, "kinds.any.title", "must be a string"),
        (r#"{"any": []}"#, "kinds.any", "must be an object"),
        (r#"{"time": {"seconds": 5}}"#, "kinds.time", "must be a time such as"),
        (r#"{"duration": "1"}"#, "kinds.duration", "must be a duration"),
        (r#"{"mask": "display_name"}"#, "kinds.mask", "must be field names in lowerCamelCase"),
        (r#"{"struct": []}"#, "kinds.struct", "must be an object"),
        (r#"{"list": {}}"#, "kinds.list", "must be an array"),
        (r#"{"any": {"@type": "type.googleapis.com/no.Such"}}"#, "kinds.any", "must be an object with an `@type`"),
        (r#"{"middle": 5}"#, "kinds.middle", "must be an object"),
        (r#"{"middle": []}"#, "kinds.middle", "must be an object"),
        (r#"{"left": "a", "right": 1}"#, "kinds.right", "must not be given together with `left`"),
        (r#"{"int32": 1, "int32": 2}"#, "kinds.int32", "is given twice"),
        (r#"{"int64Value": 1, "int64_value": 2}"#, "kinds.int64_value", "is given twice"),
        (r#"{"things": {"a": null}}"#, r#"kinds.things["a"]"#, "must not be null"),
        (r#"{"things": {"a": {"title": 5}}}"#, r#"kinds.things["a"].title"#, "must be a string"),
        (r#"{"byNumber": {"x": "y"}}"#, r#"kinds.by_number["x"]"#, "has a key that must be a whole number"),
        (r#"{"things": []}"#, "kinds.things", "must be an object"),
        (
            r#"{"listOfThings": [{}, {"inside": {"counts": {"a": "b"}}}]}"#,
            r#"kinds.list_of_things[1].inside.counts["a"]"#,
            "must be a whole number",
        ),
        (r#"{"uint32Value": {}}"#, "kinds.uint32_value", "must be a whole number"),
        ("5", "kinds", "must be an object"),
    ];
    for (body, path, detail) in table {
        let (reason, at, what) = fault(from_body(body));
        assert_eq!((reason, at.as_str()), (Reason::MalformedRequest, path), "{body}");
        assert!(what.starts_with(detail), "{body}: {what}");
    }
}

#[test]
fn unknown_fields_are_refused_with_a_suggestion() {
    let (reason, path, detail) = fault(from_body(r#"{"int46": 1}"#));
    assert_eq!((reason, path.as_str()), (Reason::UnknownField, "kinds.int46"));
    assert_eq!(detail, "is not a field of Kinds; did you mean `int64`?");
    let (_, path, detail) = fault(from_body(r#"{"listOfThings": [{"tilte": "x"}]}"#));
    assert_eq!(
        (path.as_str(), detail.as_str()),
        ("kinds.list_of_things[0].tilte", "is not a field of Thing; did you mean `title`?")
    );
    let (reason, path, detail) = fault(from_query("page_sise=5"));
    assert_eq!((reason, path.as_str()), (Reason::UnknownField, "page_sise"));
    assert_eq!(detail, "is not a field of Request; did you mean `pageSize`?");
    let (_, _, detail) = fault(from_query("kinds.colour=1"));
    assert_eq!(detail, "is not a field of Kinds; did you mean `color`?");
    let (_, _, detail) = fault(from_query("zzz=1"));
    assert_eq!(detail, "is not a field of Request");
}

#[test]
fn an_any_is_parsed_with_its_type_in_any_place() {
    let thing = json!({"any": {"@type": "x/souk.test.v1.Thing", "title": "t", "inside": {"title": "u"}}});
    for any in [
        r#"{"@type": "x/souk.test.v1.Thing", "title": "t", "inside": {"title": "u"}}"#,
        r#"{"title": "t", "@type": "x/souk.test.v1.Thing", "inside": {"title": "u"}}"#,
        r#"{"title": "t", "inside": {"title": "u"}, "@type": "x/souk.test.v1.Thing"}"#,
    ] {
        assert_eq!(from_body(&format!(r#"{{"any": {any}}}"#)).unwrap(), thing, "{any}");
    }
    // prost-reflect cannot write an empty `Any`, so the test removes it.
    let bind = |any: &str| {
        let body = format!(r#"{{"kinds": {{"any": {any}}}}}"#);
        let parts = Parts { captures: &[], query: "", body: body.as_bytes(), content_type: "" };
        binding(&[], "*", "").bind(parts)
    };
    for any in [
        r#"{}"#,
        r#"{"@type":"x/google.protobuf.Empty","value":{}}"#,
        r#"{"@type":"x/google.protobuf.Any","value":{"@type":"x/google.protobuf.Int64Value","value":"9007199254740993"}}"#,
        r#"{"@type":"x/google.protobuf.Any","value":{}}"#,
        r#"{"@type":"x/google.protobuf.Struct","value":{"a":[null]}}"#,
        r#"{"@type":"x/google.protobuf.Value","value":null}"#,
    ] {
        let message = bind(any).unwrap_or_else(|error| panic!("{any}: {error}"));
        let written = rendered("Request", "", &message.encode_to_vec()).unwrap();
        assert_eq!(written["kinds"]["any"].to_string(), any);
    }
    let empty = bind(r#"{"@type": "x/google.protobuf.Empty"}"#).unwrap();
    let written = rendered("Request", "", &empty.encode_to_vec()).unwrap();
    assert_eq!(written["kinds"]["any"], json!({"@type": "x/google.protobuf.Empty", "value": {}}));
    let (reason, path, _) = fault(bind(r#"{"@type": "x/souk.test.v1.Thing", "@type": "x/y"}"#).map(|_| Value::Null));
    assert_eq!((reason, path.as_str()), (Reason::UnknownField, "kinds.any.@type"));
    let (reason, path, detail) = fault(bind(r#"{"tilte": 1, "@type": "x/souk.test.v1.Thing"}"#).map(|_| Value::Null));
    assert_eq!((reason, path.as_str()), (Reason::UnknownField, "kinds.any.tilte"));
    assert_eq!(detail, "is not a field of Thing; did you mean `title`?");
    // An Any inside an Any inside an Any …, with the type last, so that each would be read once more.
    let deep = format!("{}{{}}{}", r#"{"value": "#.repeat(40), r#", "@type": "x/google.protobuf.Any"}"#.repeat(40));
    assert!(fault(bind(&deep).map(|_| Value::Null)).2.starts_with("must not lie deeper"));
}

#[test]
fn long_texts_of_a_client_are_shortened_in_errors() {
    let long = "x".repeat(1_000_000);
    for body in [
        format!(r#"{{"{long}": 1}}"#),
        format!(r#"{{"kinds": {{"{long}": 1}}}}"#),
        format!(r#"{{"kinds": {{"things": {{"{long}": {{"title": 1, "name": 1, "{long}": 1}}}}}}}}"#),
        format!(
            r#"{{"kinds": {{"byNumber": {{"{long}": "x"}}, "color": "{long}", "time": "{long}", "bytes": "{long}!"}}}}"#
        ),
        format!(r#"{{"kinds": {{"any": {{"@type": "{long}/{long}"}}, "mask": "{long}_"}}}}"#),
    ] {
        let error = bind(&binding(&[], "*", ""), &[], "", &body).unwrap_err();
        assert!(told(&error) < 8 * 1024, "{} bytes for {}", told(&error), &body[..60]);
    }
    for query in [format!("{long}=1"), format!("kinds.{long}=1"), format!("kinds.color={long}"), format!("{long}=%")] {
        let error = bind(&binding(&["name"], "", ""), &["n"], &query, "").unwrap_err();
        assert!(told(&error) < 8 * 1024, "{}", told(&error));
    }
    let typed = binding(&["kinds.int64"], "", "");
    assert!(told(&bind(&typed, &[&long], "", "").unwrap_err()) < 8 * 1024);
}

#[test]
fn all_errors_are_reported_at_once() {
    let body = r#"{"kinds": {"int32": "x", "bool": 1}, "tagz": [], "pageSize": []}"#;
    let error = bind(&binding(&[], "*", ""), &[], "", body).unwrap_err();
    let BindError::Fields(found) = &error else { panic!("{error}") };
    let paths: Vec<_> = found.list().iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["kinds.int32", "kinds.bool", "tagz", "page_size"]);
    assert_eq!(reason(&error), Reason::UnknownField);
}

#[test]
fn a_body_that_is_not_json_is_malformed() {
    for body in
        ["{", "[]", "null", "\"x\"", "{}}", "{\"name\": }", "\u{feff}{}", "{\"name\": \"a\",}", "{'name': 1}", "NaN"]
    {
        let error = bind(&binding(&[], "*", ""), &[], "", body).unwrap_err();
        assert_eq!(reason(&error), Reason::MalformedRequest, "{body}");
    }
    let bytes =
        binding(&[], "*", "").bind(Parts { captures: &[], query: "", body: b"{\"name\": \"\xff\"}", content_type: "" });
    assert_eq!(reason(&bytes.unwrap_err()), Reason::MalformedRequest);
    let deep =
        format!("{}{}", r#"{"thing":"#.to_owned() + &r#"{"inside":"#.repeat(100), "{}".to_owned() + &"}".repeat(101));
    assert_eq!(reason(&bind(&binding(&[], "*", ""), &[], "", &deep).unwrap_err()), Reason::MalformedRequest);
    let deep_value = format!(r#"{{"kinds": {{"value": {}{}}}}}"#, "[".repeat(110), "]".repeat(110));
    assert_eq!(reason(&bind(&binding(&[], "*", ""), &[], "", &deep_value).unwrap_err()), Reason::MalformedRequest);
    let deeper = "[".repeat(100_000);
    assert_eq!(reason(&bind(&binding(&[], "*", ""), &[], "", &deeper).unwrap_err()), Reason::MalformedRequest);
}

#[test]
fn query_parameters_of_every_type_are_accepted() {
    let table = [
        ("kinds.int64=-9223372036854775808&kinds.uint32=7", json!({"int64": "-9223372036854775808", "uint32": 7})),
        ("kinds.int64=9007199254740993.0&kinds.sint64=1e3", json!({"int64": "9007199254740993", "sint64": "1000"})),
        ("kinds.bool=true&kinds.string=a%20b+c%26", json!({"bool": true, "string": "a b c&"})),
        ("kinds.double=1.5&kinds.float=NaN", json!({"double": 1.5, "float": "NaN"})),
        ("kinds.bytes=_-8", json!({"bytes": "/+8="})),
        ("kinds.bytes=%2F%2B8%3D", json!({"bytes": "/+8="})),
        (
            "kinds.color=COLOR_RED&kinds.colors=1&kinds.colors=COLOR_GREEN",
            json!({"color": "COLOR_RED", "colors": ["COLOR_RED", "COLOR_GREEN"]}),
        ),
        ("kinds.numbers=1&kinds.numbers=2", json!({"numbers": ["1", "2"]})),
        ("kinds.time=2026-01-31T12:00:00Z", json!({"time": "2026-01-31T12:00:00Z"})),
        (
            "kinds.times=2026-01-31T12:00:00Z&kinds.times=2026-02-01T00:00:00Z",
            json!({"times": ["2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z"]}),
        ),
        ("kinds.duration=1.5s", json!({"duration": "1.500s"})),
        ("kinds.mask=display_name,price.units", json!({"mask": "displayName,price.units"})),
        ("kinds.mask=displayName", json!({"mask": "displayName"})),
        ("kinds.mask=*", json!({"mask": "*"})),
        (
            "kinds.int64Value=7&kinds.string_value=&kinds.boolValue=false",
            json!({"int64Value": "7", "stringValue": "", "boolValue": false}),
        ),
        ("kinds.left=a", json!({"left": "a"})),
        ("kinds.middle.inside.title=deep", json!({"middle": {"inside": {"title": "deep"}}})),
        ("kinds.maybe=0", json!({"maybe": 0})),
        ("&&kinds.int32=1&", json!({"int32": 1})),
    ];
    for (query, expected) in table {
        match from_query(query) {
            Ok(value) => assert_eq!(value, expected, "{query}"),
            Err(error) => panic!("{query}: {error}"),
        }
    }
}

#[test]
fn invalid_query_parameters_are_refused() {
    let table = [
        ("kinds.int32=", "kinds.int32", "must be a whole number"),
        ("kinds.int32=1&kinds.int32=2", "kinds.int32", "is given twice"),
        ("kinds.int64=-9223372036854775809", "kinds.int64", "must be a whole number from -9223372036854775808"),
        ("kinds.numbers=9223372036854775808", "kinds.numbers", "must be a whole number"),
        ("kinds.int64Value=9223372036854775808", "kinds.int64_value", "must be a whole number"),
        ("kinds.color=4294967297", "kinds.color", "must be one of"),
        ("kinds.time=2016-12-31T23:59:60Z", "kinds.time", "must be a time"),
        ("kinds.mask=a,,b", "kinds.mask", "must be field names"),
        ("kinds.bool=1", "kinds.bool", "must be true or false"),
        ("kinds.color=red", "kinds.color", "must be one of"),
        ("kinds.left=a&kinds.right=1", "kinds.right", "must not be given together with `left`"),
        ("kinds=1", "kinds", "is a message: give its fields one by one, such as `kinds.double=…`"),
        ("kinds.things=1", "kinds.things", "is a map"),
        ("kinds.listOfThings=1", "kinds.list_of_things", "must be an object: it cannot be given in the query"),
        ("kinds.string=%ff", "kinds.string", "is not UTF-8"),
        ("kinds.string=%4", "kinds.string", "has a `%` that is not followed"),
    ];
    for (query, path, detail) in table {
        let (reason, at, what) = fault(from_query(query));
        assert_eq!((reason, at.as_str()), (Reason::MalformedRequest, path), "{query}");
        assert!(what.starts_with(detail), "{query}: {what}");
    }
    for (query, detail) in [
        ("name=x", "is not a query parameter: this field comes in the path"),
        ("kinds.listOfThings.title=x", "does not exist: `listOfThings` has no fields"),
        ("kinds.int32.x=1", "does not exist: `int32` has no fields"),
        ("kinds..int32=1", "is not a field of Kinds"),
        ("=1", "is not a field of Request"),
    ] {
        let (reason, _, what) = fault(from_query(query));
        assert_eq!(reason, Reason::UnknownField, "{query}");
        assert!(what.starts_with(detail), "{query}: {what}");
    }
    let deep = format!("thing{}.title=x", ".inside".repeat(40));
    assert!(fault(from_query(&deep)).2.starts_with("must not lie deeper"));
}

#[test]
fn path_query_and_body_are_merged_into_one_message() {
    let patch = binding(&["thing.name"], "thing", "");
    let bound = bind(&patch, &["things/1"], "pageSize=5&tags=a", r#"{"title": "t", "counts": {"a": 1}}"#).unwrap();
    assert_eq!(
        bound,
        json!({"thing": {"name": "things/1", "title": "t", "counts": {"a": 1}}, "tags": ["a"], "pageSize": 5})
    );
    // The body may repeat the path, but not contradict it.
    assert!(bind(&patch, &["things/1"], "", r#"{"name": "things/1"}"#).is_ok());
    let (_, path, detail) = fault(bind(&patch, &["things/1"], "", r#"{"name": "things/2"}"#));
    assert_eq!(path, "thing.name");
    assert!(detail.starts_with("differs from the path"));
    let (reason, _, detail) = fault(bind(&patch, &["things/1"], "thing.title=x", "{}"));
    assert_eq!(
        (reason, detail.as_str()),
        (Reason::UnknownField, "is not a query parameter: this field comes in the body")
    );

    let list = binding(&["name"], "tags", "");
    assert_eq!(bind(&list, &["n"], "", r#"["a", "b"]"#).unwrap(), json!({"name": "n", "tags": ["a", "b"]}));
    assert_eq!(fault(bind(&list, &["n"], "", r#"["a", 5]"#)).1, "tags[1]");

    let all = binding(&["name"], "*", "");
    assert_eq!(bind(&all, &["n"], "", "").unwrap(), json!({"name": "n"}));
    let (reason, ..) = fault(bind(&all, &["n"], "pageSize=1", "{}"));
    assert_eq!(reason, Reason::UnknownField);

    let none = binding(&["name"], "", "");
    assert_eq!(fault(bind(&none, &["n"], "", "{}")).0, Reason::MalformedRequest);

    let typed = binding(&["kinds.int64", "kinds.color"], "", "");
    let bound = bind(&typed, &["7", "COLOR_RED"], "", "").unwrap();
    assert_eq!(bound, json!({"kinds": {"int64": "7", "color": "COLOR_RED"}}));
    assert_eq!(fault(bind(&typed, &["x", "COLOR_RED"], "", "")).1, "kinds.int64");
    let exact = bind(&typed, &["9007199254740993.0", "1"], "", "").unwrap();
    assert_eq!(exact, json!({"kinds": {"int64": "9007199254740993", "color": "COLOR_RED"}}));
    assert_eq!(fault(bind(&typed, &["-9223372036854775809", "1"], "", "")).1, "kinds.int64");
}

#[test]
fn bindings_that_do_not_fit_the_types_are_refused() {
    let new = |variable: &str, body: &str, response_body: &str| {
        let variables = Some(variable).filter(|name| !name.is_empty());
        Binding::new(&message_type("Request"), &message_type("Reply"), variables, body, response_body)
            .unwrap_err()
            .to_string()
    };
    assert!(new("nmae", "", "").contains("no field `nmae`"));
    assert!(new("thing", "", "").contains("neither repeated nor a message"));
    assert!(new("tags", "", "").contains("neither repeated nor a message"));
    assert!(new("tags.x", "", "").contains("not a message"));
    assert!(new("", "nope", "").contains("`body: \"nope\"`"));
    assert!(new("", "", "nope").contains("`response_body: \"nope\"`"));
    let twice = Binding::new(&message_type("Request"), &message_type("Reply"), ["name", "name"], "", "");
    assert!(twice.unwrap_err().to_string().contains("twice"));
}

/// The JSON of a response of this type, which the gateway writes from its bytes.
fn rendered(name: &str, alone: &str, message: &[u8]) -> Result<Value, render::RenderError> {
    let message_type = message_type(name);
    let alone = message_type.get_field_by_name(alone);
    let json = Renderer::new(&message_type, alone.as_ref()).render(message)?;
    Ok(serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&json))))
}

/// The same JSON from the library, for comparison.
fn by_the_library(message: &DynamicMessage) -> Option<Value> {
    let mut json = serde_json::Serializer::new(Vec::new());
    message
        .serialize_with_options(&mut json, &prost_reflect::SerializeOptions::new().skip_default_fields(false))
        .ok()?;
    Some(serde_json::from_slice(&json.into_inner()).unwrap())
}

#[test]
fn responses_have_every_field_or_are_one_field() {
    let mut reply = DynamicMessage::new(message_type("Reply"));
    reply.set_field_by_name("tags", prost_reflect::Value::List(vec![prost_reflect::Value::String("a".into())]));
    let reply = reply.encode_to_vec();
    // Fields with presence (`thing`, `request`) are written only if they are set.
    assert_eq!(rendered("Reply", "", &reply).unwrap(), json!({"method": "", "headers": {}, "tags": ["a"], "etag": ""}));
    assert_eq!(rendered("Reply", "tags", &reply).unwrap(), json!(["a"]));
    assert_eq!(rendered("Reply", "thing", &reply).unwrap(), Value::Null);
    assert_eq!(rendered("Reply", "method", &reply).unwrap(), json!(""));
    assert_eq!(rendered("Reply", "headers", &reply).unwrap(), json!({}));
}

#[test]
fn invalid_response_messages_are_refused() {
    for (kinds, why) in [
        (&b"\x9a\x01\x07\x08\x80\x92\xb8\xc3\x98\xfe"[..], "breaks off"),
        (b"\x72\x01\xff", "not UTF-8"),
        (b"\x18\x05\x19\x00", "breaks off"),
        (b"\x1a\x01\x05", "breaks off"),
    ] {
        let error = rendered("Kinds", "", kinds).unwrap_err().to_string();
        assert!(error.contains(why), "{kinds:?}: {error}");
    }
    // The year 10000, and a billion nanoseconds.
    for (seconds, nanos) in [(253_402_300_800, 0), (-62_135_596_801, 0), (0, 1_000_000_000), (0, -1)] {
        let mut kinds = DynamicMessage::new(message_type("Kinds"));
        let mut time = DynamicMessage::new(POOL.get_message_by_name("google.protobuf.Timestamp").unwrap());
        time.set_field_by_name("seconds", prost_reflect::Value::I64(seconds));
        time.set_field_by_name("nanos", prost_reflect::Value::I32(nanos));
        kinds.set_field_by_name("time", prost_reflect::Value::Message(time));
        assert!(matches!(rendered("Kinds", "", &kinds.encode_to_vec()), Err(render::RenderError::Time)));
    }
    // Messages nested deeper than any real message.
    let mut thing = Vec::new();
    for _ in 0..200 {
        let mut outer = vec![0x1a];
        prost::encode_length_delimiter(thing.len(), &mut outer).unwrap();
        outer.append(&mut thing);
        thing = outer;
    }
    assert!(matches!(rendered("Thing", "", &thing), Err(render::RenderError::Depth)));
}

#[test]
fn unusual_response_values_are_written_as_json_or_refused() {
    let kinds = |bytes: &[u8]| rendered("Kinds", "", bytes);
    // DoubleValue (field 30): NaN and the infinities.
    for (number, text) in [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (f64::NEG_INFINITY, "-Infinity")] {
        let bytes = [&b"\xf2\x01\x09\x09"[..], &number.to_le_bytes()].concat();
        assert_eq!(kinds(&bytes).unwrap()["doubleValue"], text);
        // A Value (field 23) has no text form for NaN and infinity.
        let bytes = [&b"\xba\x01\x09\x11"[..], &number.to_le_bytes()].concat();
        assert!(matches!(kinds(&bytes), Err(render::RenderError::Number)));
    }
    // An empty Any (field 25), and one with content but no type.
    assert_eq!(kinds(b"\xca\x01\x00").unwrap()["any"], json!({}));
    assert!(matches!(kinds(b"\xca\x01\x03\x12\x01x"), Err(render::RenderError::Any)));
    assert!(matches!(kinds(b"\xca\x01\x05\x0a\x03x/y"), Err(render::RenderError::Any)));
    // Groups with unknown field numbers, before and after a known field (5, a uint32).
    let grouped = b"\xcb\x3e\x08\x01\xcc\x3e\x28\x07\xcb\x3e\xd3\x3e\xd4\x3e\xcc\x3e";
    assert_eq!(kinds(grouped).unwrap()["uint32"], 7);
    // A Duration (field 20) of a second and minus one nanosecond.
    let opposed = b"\xa2\x01\x0d\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert!(matches!(kinds(opposed), Err(render::RenderError::Duration)));
    // Numbers of 32 bits (3 int32, 5 uint32, 7 sint32, 16 enum) written with more bits: the low half counts.
    let wide = b"\x18\x81\x80\x80\x80\x10\x28\x82\x80\x80\x80\x10\x38\x83\x80\x80\x80\x10\x80\x01\x81\x80\x80\x80\x10";
    let wide = kinds(wide).unwrap();
    assert_eq!(json!([wide["int32"], wide["uint32"], wide["sint32"], wide["color"]]), json!([1, 2, -2, "COLOR_RED"]));
    let library = DynamicMessage::decode(message_type("Kinds"), &b"\x38\xff\xff\xff\xff\xff\x01"[..]).unwrap();
    let ours = kinds(b"\x38\xff\xff\xff\xff\xff\x01").unwrap();
    assert_eq!(ours["sint32"], by_the_library(&library).unwrap()["sint32"]);
    // Masks (field 21) whose JSON would be read as another mask.
    for path in ["foo__bar", "fooBar", "a,b", "foo_3", ""] {
        let length = u8::try_from(path.len()).unwrap();
        let bytes = [b"\xaa\x01", &[length + 2, 0x0a, length][..], path.as_bytes()].concat();
        assert!(matches!(kinds(&bytes), Err(render::RenderError::Mask)), "{path}");
    }
    // A Value without a kind, and a Value with several kinds, of which the last one counts.
    assert_eq!(kinds(b"\xba\x01\x00").unwrap()["value"], Value::Null);
    assert_eq!(kinds(b"\xba\x01\x05\x20\x01\x1a\x01x").unwrap()["value"], "x");
}

#[test]
fn a_header_sets_its_field() {
    let mut request = DynamicMessage::new(message_type("Request"));
    fill(&mut request, "request_id", "Idempotency-Key", "k1").unwrap();
    assert_eq!(plain(&request), json!({"requestId": "k1"}));
    fill(&mut request, "request_id", "Idempotency-Key", "k1").unwrap();
    let error = fill(&mut request, "request_id", "Idempotency-Key", "k2").unwrap_err();
    assert_eq!((&*error.header, &*error.field), ("Idempotency-Key", "request_id"));
}

#[test]
fn each_field_belongs_to_its_part_of_the_request() {
    let binding = binding(&["thing.name"], "thing", "");
    assert_eq!(binding.place("thing.name"), Place::Path);
    assert_eq!(binding.place("thing.title"), Place::Body);
    assert_eq!(binding.place("thing"), Place::Body);
    assert_eq!(binding.place("things"), Place::Query);
    assert_eq!(binding.pointer_in_body("/thing/counts/a"), "/counts/a");
    assert_eq!(binding.pointer_in_body("/thing"), "");
    assert_eq!(binding.pointer_in_body("/things/a"), "/things/a");
}

/// JSON of any shape, in which names often match a field.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        proptest::sample::select(vec![
            "name",
            "thing",
            "tags",
            "kinds",
            "int32",
            "int64",
            "double",
            "color",
            "colors",
            "time",
            "duration",
            "mask",
            "struct",
            "value",
            "list",
            "any",
            "empty",
            "int64Value",
            "left",
            "middle",
            "things",
            "byNumber",
            "byBool",
            "inside",
            "counts",
            "@type",
            "bytes",
            "nothing",
            "times",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    let text = prop_oneof![
        ".{0,20}",
        "[0-9.eE+-]{0,25}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,12})?(Z|[+-][0-9]{2}:[0-9]{2})",
        "-?[0-9]{1,14}(\\.[0-9]{1,12})?s",
        "type.googleapis.com/(souk.test.v1.Thing|google.protobuf.(Any|Value|Duration|Struct))",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Valid JSON of a message of this type, in which each value has one of its allowed spellings.
fn json_of(message: &MessageDescriptor, depth: u32) -> BoxedStrategy<Value> {
    let wrapped = |field: prost_reflect::FieldDescriptor| json_value(&field.kind(), depth);
    match message.full_name() {
        "google.protobuf.Timestamp" => {
            let offset = prop_oneof![Just("Z".to_owned()), "[+-](0[0-9]|1[0-9]):[0-5][0-9]"];
            let fraction = prop_oneof![Just(String::new()), "\\.[0-9]{1,9}"];
            let day = "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])";
            let time = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]";
            (day, time, fraction, offset)
                .prop_map(|(day, time, fraction, offset)| json!(format!("{day}T{time}{fraction}{offset}")))
                .boxed()
        }
        "google.protobuf.Duration" => "-?[0-9]{1,11}(\\.[0-9]{1,9})?s".prop_map(Value::from).boxed(),
        "google.protobuf.FieldMask" => {
            "([a-z]{1,4}([A-Z][a-z]{1,3})?(\\.[a-z]{1,4})?(,[a-z]{1,4}){0,2})?".prop_map(Value::from).boxed()
        }
        "google.protobuf.Struct" => any_json().prop_map(|inside| json!({"x": inside})).boxed(),
        "google.protobuf.Value" => any_json().boxed(),
        "google.protobuf.ListValue" => proptest::collection::vec(any_json(), 0..3).prop_map(Value::from).boxed(),
        "google.protobuf.Any" => {
            Just(json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.5s"})).boxed()
        }
        "google.protobuf.Empty" => Just(json!({})).boxed(),
        // The library writes an infinity in a wrapper as null.
        name if name.starts_with("google.protobuf.") => wrapped(message.get_field_by_name("value").unwrap())
            .prop_filter("finite", |value| !value.as_str().is_some_and(|text| text.ends_with("Infinity")))
            .boxed(),
        _ => {
            let fields: Vec<_> = message.fields().collect();
            let values: Vec<_> = fields
                .iter()
                .map(|field| proptest::option::weighted(if depth == 0 { 0.02 } else { 0.15 }, json_field(field, depth)))
                .collect();
            (values, any::<bool>())
                .prop_map(move |(values, own_names)| {
                    let mut object = serde_json::Map::new();
                    let mut oneofs = Vec::new();
                    for (field, value) in fields.iter().zip(values) {
                        let Some(value) = value else { continue };
                        let oneof = field.containing_oneof();
                        if oneof.as_ref().is_none_or(|oneof| !oneofs.contains(oneof)) {
                            let name = if own_names { field.name() } else { field.json_name() };
                            object.insert(name.to_owned(), value);
                            oneofs.extend(oneof);
                        }
                    }
                    Value::Object(object)
                })
                .boxed()
        }
    }
}

fn json_field(field: &prost_reflect::FieldDescriptor, depth: u32) -> BoxedStrategy<Value> {
    if field.is_map() {
        let entry = field.kind();
        let entry = entry.as_message().unwrap();
        let key = match entry.map_entry_key_field().kind() {
            Kind::Bool => "(true|false)".boxed(),
            Kind::Int64 => any::<i64>().prop_map(|key| key.to_string()).boxed(),
            _ => ".{0,4}".boxed(),
        };
        let value = json_value(&entry.map_entry_value_field().kind(), depth);
        let map = proptest::collection::btree_map(key, value, 0..3);
        return map.prop_map(|map| Value::Object(map.into_iter().collect())).boxed();
    }
    if field.is_list() {
        return proptest::collection::vec(json_value(&field.kind(), depth), 0..3).prop_map(Value::from).boxed();
    }
    json_value(&field.kind(), depth)
}

fn json_value(kind: &Kind, depth: u32) -> BoxedStrategy<Value> {
    fn number<T: Copy + Into<Value> + ToString>(value: T) -> BoxedStrategy<Value> {
        prop_oneof![Just(value.into()), Just(value.to_string().into())].boxed()
    }
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => any::<i32>().prop_flat_map(number).boxed(),
        Kind::Uint32 | Kind::Fixed32 => any::<u32>().prop_flat_map(number).boxed(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => any::<i64>().prop_flat_map(number).boxed(),
        Kind::Uint64 | Kind::Fixed64 => any::<u64>().prop_flat_map(number).boxed(),
        Kind::Float => prop_oneof![
            any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| json!(value)),
            Just(json!("Infinity")),
            Just(json!("-Infinity"))
        ]
        .boxed(),
        Kind::Double => prop_oneof![
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_flat_map(number),
            Just(json!("Infinity"))
        ]
        .boxed(),
        Kind::String => ".{0,10}".prop_map(Value::from).boxed(),
        Kind::Bytes => proptest::collection::vec(any::<u8>(), 0..6)
            .prop_map(|bytes| json!(base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, bytes)))
            .boxed(),
        Kind::Enum(names) if names.full_name() == "google.protobuf.NullValue" => Just(Value::Null).boxed(),
        Kind::Enum(names) => {
            let names: Vec<_> = names.values().map(|value| json!(value.name())).collect();
            prop_oneof![proptest::sample::select(names), (0..100).prop_map(Value::from)].boxed()
        }
        Kind::Message(message) if depth == 0 && !message.full_name().starts_with("google.protobuf.") => {
            Just(json!({})).boxed()
        }
        Kind::Message(message) => json_of(message, depth.saturating_sub(1)),
    }
}

/// Valid requests.
fn request() -> BoxedStrategy<Value> {
    json_of(&message_type("Request"), 3)
}

proptest! {
    #![proptest_config(crate::fuzz::cases())]

    /// Valid JSON is accepted and read as the library reads it, and the response is written as the library writes it.
    #[test]
    fn json_is_parsed_and_written_as_by_the_library(json in request()) {
        let text = json.to_string();
        let ours = binding(&[], "*", "").bind(Parts { captures: &[], query: "", body: text.as_bytes(), content_type: "" });
        let ours = ours.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let theirs = DynamicMessage::deserialize(message_type("Request"), &mut serde_json::Deserializer::from_str(&text));
        let theirs = theirs.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(by_the_library(&ours), by_the_library(&theirs), "{}", text);
        if let Some(expected) = by_the_library(&ours) {
            prop_assert_eq!(rendered("Request", "", &ours.encode_to_vec()).unwrap(), expected);
        }
    }

    /// Fields may come in any order and repeatedly, and messages in parts: the JSON must match what a decoder reads.
    #[test]
    fn repeated_and_split_fields_are_written_once(first in request(), second in request()) {
        let bind = |json: &Value| binding(&[], "*", "").bind(Parts { captures: &[], query: "", body: json.to_string().as_bytes(), content_type: "" }).unwrap();
        let bytes = [bind(&first).encode_to_vec(), bind(&second).encode_to_vec()].concat();
        let whole = DynamicMessage::decode(message_type("Request"), bytes.as_slice()).unwrap();
        if let Some(expected) = by_the_library(&whole) {
            prop_assert_eq!(rendered("Request", "", &bytes).unwrap(), expected);
        }
    }

    /// Any JSON is either bound to a message, whose JSON means the same, or refused with an error.
    #[test]
    fn any_json_is_bound_or_refused(json in any_json()) {
        let bind = |body: &str| binding(&[], "*", "").bind(Parts { captures: &[], query: "", body: body.as_bytes(), content_type: "" });
        let text = json.to_string();
        if let Ok(message) = bind(&text) {
            let written = rendered("Request", "", &message.encode_to_vec()).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
            let again = bind(&written.to_string()).map_err(|error| TestCaseError::fail(format!("{text}: {written}: {error}")))?;
            prop_assert_eq!(rendered("Request", "", &again.encode_to_vec()).unwrap(), written, "{}", text);
        }
        let _ = binding(&[], "kinds", "").bind(Parts { captures: &[], query: "", body: text.as_bytes(), content_type: "" });
    }

    #[test]
    fn any_bytes_are_written_as_json_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = rendered("Request", "", &bytes);
        let _ = rendered("Kinds", "", &bytes);
    }

    #[test]
    fn any_bytes_are_bound_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = binding(&[], "*", "").bind(Parts { captures: &[], query: "", body: &body, content_type: "" });
    }

    #[test]
    fn any_query_is_bound_or_refused(query in prop_oneof![
        ".{0,80}",
        "((kinds|thing|inside|color|colors|time|times|int64|int64Value|struct|value|list|any|empty|things|left|right|tags|mask|duration|bytes)[.=&]?){0,6}[=].{0,20}",
        "kinds\\.(int32|double|time|duration|mask|bytes|value|nothing)=[0-9TZ:.e+%a-f_,s-]{0,30}",
    ]) {
        let _ = binding(&["name"], "", "").bind(Parts { captures: &["x".to_owned()], query: &query, body: b"", content_type: "" });
    }

    #[test]
    fn any_path_variable_is_bound_or_refused(number in ".{0,30}", color in ".{0,20}") {
        let _ = binding(&["kinds.int64", "kinds.color"], "", "").bind(Parts { captures: &[number, color], query: "", body: b"", content_type: "" });
    }
}
