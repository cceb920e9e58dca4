//! Tests the validator with a contract with every rule, with a naive model, and with souk's own contracts.
use std::{fmt::Write, path::Path, sync::LazyLock};

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage};
use protox::file::{File, FileResolver, GoogleFileResolver};
use serde_json::json;

use super::*;

mod texts;

const CONTRACT: &str = include_str!("test.proto");

/// Resolves a contract's text, and validate.proto, which is long and therefore read once.
struct Files(String);

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        static VALIDATE: LazyLock<File> = LazyLock::new(|| {
            let name = "buf/validate/validate.proto";
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/third_party");
            File::open(name, &folder.join(name)).unwrap()
        });
        match name {
            "test.proto" => File::from_source(name, &self.0),
            "buf/validate/validate.proto" => Ok(VALIDATE.clone()),
            souk if souk.starts_with("souk/") => {
                File::open(name, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto").join(name))
            }
            _ => GoogleFileResolver::new().open_file(name),
        }
    }
}

/// Compiles a contract's text.
fn pool(contract: &str) -> DescriptorPool {
    let mut compiler = protox::Compiler::with_file_resolver(Files(contract.to_owned()));
    compiler.include_imports(true).open_file("test.proto").unwrap();
    DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap()
}

fn message(pool: &DescriptorPool, name: &str, json: &serde_json::Value) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(name).unwrap();
    DynamicMessage::deserialize(descriptor, json).unwrap_or_else(|error| panic!("{name} {json}: {error}"))
}

/// The path and rule of every violation.
fn broken(validator: &Validator, message: &DynamicMessage) -> Vec<(String, String)> {
    match validator.check(message) {
        Ok(()) => Vec::new(),
        Err(violations) => violations.into_iter().map(|v| (v.field_path, v.rule_id)).collect(),
    }
}

/// A message of the test contract, and the expected path and rule of every violation.
type Case = (&'static str, serde_json::Value, &'static [(&'static str, &'static str)]);

#[test]
fn every_rule_is_checked() {
    let base = json!({"always": "a", "email": "a@b.c"});
    let cases: Vec<Case> = vec![
        ("Strings", json!({}), &[]),
        ("Strings", json!({"const": "x", "len": "éé", "sized": "ééé", "bytes": "é", "lenBytes": "aé"}), &[]),
        (
            "Strings",
            json!({"const": "y", "len": "ééé", "sized": "éééé", "bytes": "éé", "lenBytes": "é"}),
            &[
                ("const", "string.const"),
                ("len", "string.len"),
                ("sized", "string.max_len"),
                ("bytes", "string.max_bytes"),
                ("len_bytes", "string.len_bytes"),
            ],
        ),
        ("Strings", json!({"sized": "é", "bytes": "a"}), &[("sized", "string.min_len"), ("bytes", "string.min_bytes")]),
        ("Strings", json!({"pattern": "aaa", "affixes": "amz", "in": "b", "email": "a@b", "unanchored": "abc"}), &[]),
        (
            "Strings",
            json!({"pattern": "aab", "affixes": "q", "in": "c", "notIn": "c", "email": "a@", "unanchored": "ac"}),
            &[
                ("pattern", "string.pattern"),
                ("affixes", "string.prefix"),
                ("affixes", "string.suffix"),
                ("affixes", "string.contains"),
                ("affixes", "string.not_contains"),
                ("in", "string.in"),
                ("not_in", "string.not_in"),
                ("email", "string.email"),
                ("unanchored", "string.pattern"),
            ],
        ),
        ("Strings", json!({"pattern": "a\n"}), &[("pattern", "souk.text")]),
        ("Strings", json!({"two": "b"}), &[("two", "string.min_len"), ("two", "string.pattern")]),
        ("Presence", base.clone(), &[]),
        ("Presence", json!({}), &[("always", "string.min_len"), ("email", "string.email_empty")]),
        (
            "Presence",
            json!({"always": "a", "email": "a@b.c", "ifSet": "", "ifSetZero": "", "zero": -1}),
            &[("if_set", "string.min_len"), ("if_set_zero", "string.min_len"), ("zero", "int32.gte")],
        ),
        (
            "Required",
            json!({}),
            &[
                ("text", "required"),
                ("number", "required"),
                ("message", "required"),
                ("list", "required"),
                ("map", "required"),
            ],
        ),
        ("Required", json!({"text": "a", "number": 0, "message": {}, "list": ["", ""], "map": {"": ""}}), &[]),
        (
            "Required",
            json!({"text": "", "number": -1, "message": {}, "list": [""], "map": {"": ""}}),
            &[("text", "required"), ("number", "int32.gte"), ("list", "repeated.min_items")],
        ),
        ("Numbers", json!({}), &[]),
        (
            "Numbers",
            json!({"i32": 9, "s64": "11", "u64": "18446744073709551614", "f32": 4, "float": 0.1, "const": "5", "yes": true}),
            &[],
        ),
        ("Numbers", json!({"s64": "-3"}), &[]),
        (
            "Numbers",
            json!({"i32": 10, "s64": "10", "u64": "18446744073709551615", "f32": 3, "float": 0.11, "double": -1, "const": "4"}),
            &[
                ("i32", "int32.gte_lt"),
                ("s64", "sint64.gt_lt_exclusive"),
                ("u64", "uint64.lte"),
                ("f32", "fixed32.in"),
                ("float", "float.lte"),
                ("double", "double.gt"),
                ("const", "int64.const"),
            ],
        ),
        ("Numbers", json!({"u64": 7}), &[("u64", "uint64.not_in")]),
        ("Numbers", json!({"float": "-Infinity"}), &[("float", "float.finite")]),
        (
            "Numbers",
            json!({"float": "NaN", "double": "NaN"}),
            &[("float", "float.finite"), ("float", "float.lte"), ("double", "double.gt")],
        ),
        ("Enums", json!({"defined": "COLOR_RED", "in": "COLOR_RED", "const": "COLOR_GREEN"}), &[]),
        ("Enums", json!({}), &[("defined", "enum.not_in")]),
        (
            "Enums",
            json!({"defined": 99, "in": 2, "const": 1}),
            &[("defined", "enum.defined_only"), ("in", "enum.in"), ("const", "enum.const")],
        ),
        ("Bytes", json!({"sized": "YWE=", "affixes": "YW16", "in": "YQ==", "len": "YQ=="}), &[]),
        (
            "Bytes",
            json!({"sized": "YQ==", "affixes": "cQ==", "in": "Yg==", "len": "YWE="}),
            &[
                ("sized", "bytes.min_len"),
                ("affixes", "bytes.prefix"),
                ("affixes", "bytes.suffix"),
                ("affixes", "bytes.contains"),
                ("in", "bytes.not_in"),
                ("len", "bytes.len"),
            ],
        ),
        ("Bytes", json!({"sized": "YWFhYQ==", "in": "Yw=="}), &[("sized", "bytes.max_len"), ("in", "bytes.in")]),
        (
            "Lists",
            json!({"texts": ["aa", "bb", "cc"], "numbers": [0, 6], "colors": [1, 2], "messages": [base], "ignored": [{}]}),
            &[],
        ),
        (
            "Lists",
            json!({"texts": ["aa", "b", "aa", "dd"], "numbers": [0, 5], "colors": [1, 1], "messages": [base, {}]}),
            &[
                ("texts", "repeated.max_items"),
                ("texts[1]", "string.min_len"),
                ("texts", "repeated.unique"),
                ("numbers[1]", "int32.gt"),
                ("messages[1].always", "string.min_len"),
                ("messages[1].email", "string.email_empty"),
                ("colors", "repeated.unique"),
            ],
        ),
        ("Lists", json!({"doubles": ["NaN", "NaN", 0.0]}), &[]),
        ("Lists", json!({"doubles": [0.0, -0.0]}), &[("doubles", "repeated.unique")]),
        ("Maps", json!({"texts": {"a": "b"}, "messages": {"7": base}, "flags": {"true": 1}}), &[]),
        (
            "Maps",
            json!({"texts": {"A\"": "b", "b": "", "c": "d"}, "messages": {"-7": {"always": "a"}}, "flags": {"true": 0}}),
            &[
                ("texts", "map.max_pairs"),
                (r#"texts["A\""]"#, "string.pattern"),
                (r#"texts["b"]"#, "string.min_len"),
                ("messages[-7].email", "string.email_empty"),
                ("flags[true]", "int32.gte"),
            ],
        ),
        ("Maps", json!({}), &[("messages", "map.min_pairs")]),
        ("Times", json!({}), &[]),
        (
            "Times",
            json!({"ttl": "60s", "in": "0.5s", "past": "2020-01-01T00:00:00Z", "after": "2020-09-13T12:26:40Z"}),
            &[],
        ),
        (
            "Times",
            json!({"ttl": "60.000000001s", "in": "2s", "past": "2200-01-01T00:00:00Z", "after": "2020-09-13T12:26:39.999Z"}),
            &[
                ("ttl", "duration.gte_lte"),
                ("in", "duration.in"),
                ("past", "timestamp.lt_now"),
                ("after", "timestamp.gte"),
            ],
        ),
        ("Times", json!({"ttl": "-1s"}), &[("ttl", "duration.gte_lte")]),
        ("Choices", json!({"one": "aaa", "three": 1, "left": "a"}), &[]),
        ("Choices", json!({"three": 1, "right": base}), &[]),
        (
            "Choices",
            json!({"one": "a", "two": "b"}),
            &[("one", "string.min_len"), ("choice", "required"), ("", "message.oneof"), ("", "message.oneof")],
        ),
        (
            "Choices",
            json!({"three": 1, "four": ["a"], "left": ""}),
            &[("left", "string.min_len"), ("", "message.oneof")],
        ),
        ("Tree", json!({"name": "a", "left": {"name": "b"}}), &[]),
        (
            "Tree",
            json!({"name": "a", "left": {"children": [{"name": "c"}, {}]}}),
            &[("left.name", "string.min_len"), ("left.children[1].name", "string.min_len")],
        ),
        ("Circle", json!({"itself": {"plain": {"number": 0}}}), &[]),
        ("Far", json!({"nearer": {"x": {"trees": [{}]}}}), &[(r#"nearer["x"].trees[0].name"#, "string.min_len")]),
    ];
    let pool = pool(CONTRACT);
    let validator = Validator::new(&pool).unwrap();
    for (name, json, expected) in cases {
        let message = message(&pool, &format!("souk.test.v1.{name}"), &json);
        let expected: Vec<_> = expected.iter().map(|(path, rule)| ((*path).to_owned(), (*rule).to_owned())).collect();
        assert_eq!(broken(&validator, &message), expected, "{name} {json}");
    }
}

#[test]
fn violations_are_described_in_plain_words() {
    let pool = pool(CONTRACT);
    let validator = Validator::new(&pool).unwrap();
    let cases = [
        (
            "Presence",
            json!({"email": "x"}),
            vec!["must not be empty", "must be an email address (for example name@example.com)"],
        ),
        (
            "Numbers",
            json!({"i32": 10, "float": 1}),
            vec!["must be at least -1 and less than 10", "must be at most 0.1"],
        ),
        (
            "Strings",
            json!({"unanchored": "x", "in": "x"}),
            vec![r#"must be one of "a", "b""#, "must match b (for example abc)"],
        ),
        ("Enums", json!({"defined": 99}), vec!["must be one of COLOR_RED, COLOR_GREEN"]),
        ("Enums", json!({}), vec!["must not be COLOR_UNSPECIFIED"]),
        ("Times", json!({"ttl": "0s"}), vec!["must be at least 1s and at most 60s"]),
        ("Choices", json!({"three": 1}), vec!["must be set: one of left, right"]),
        ("Maps", json!({}), vec!["must have at least 1 entry"]),
    ];
    for (name, json, expected) in cases {
        let message = message(&pool, &format!("souk.test.v1.{name}"), &json);
        let said: Vec<_> = validator.check(&message).unwrap_err().into_iter().map(|v| v.message).collect();
        assert_eq!(said, expected, "{name} {json}");
    }
}

#[test]
fn messages_with_rules_are_recognised() {
    let pool = pool(CONTRACT);
    let validator = Validator::new(&pool).unwrap();
    let has_rules =
        |name: &str| validator.has_rules(&pool.get_message_by_name(&format!("souk.test.v1.{name}")).unwrap());
    for name in ["Strings", "Required", "Choices", "Tree", "Far", "Nearer", "Maps", "Texts"] {
        assert!(has_rules(name), "{name}");
    }
    assert!(!has_rules("Circle") && !has_rules("Plain"));
    assert!(!validator.has_rules(&pool.get_message_by_name("google.protobuf.Duration").unwrap()));
    assert!(!validator.has_rules(&pool.get_message_by_name("buf.validate.FieldRules").unwrap()));
}

#[test]
fn the_number_of_reported_violations_is_limited() {
    let pool = pool(CONTRACT);
    let validator = Validator::new(&pool).unwrap();
    let message = message(&pool, "souk.test.v1.Lists", &json!({"messages": vec![json!({}); 5000]}));
    assert_eq!(validator.check(&message).unwrap_err().len(), MAX_VIOLATIONS);
}

/// A contract must not appear to be checked by a rule that is not checked.
#[test]
fn rules_that_cannot_be_checked_are_refused() {
    let cases = [
        (
            "string a = 1 [(buf.validate.field).cel = {id: \"x\", expression: \"this != ''\"}];",
            "souk.test.v1.M.a",
            "cel",
        ),
        ("string a = 1 [(buf.validate.field).cel_expression = \"this != ''\"];", "souk.test.v1.M.a", "cel_expression"),
        ("option (buf.validate.message).cel = {id: \"x\", expression: \"true\"};", "souk.test.v1.M", "cel"),
        ("option (buf.validate.message).oneof = {fields: [\"nope\"]};", "souk.test.v1.M", "message.oneof"),
        (
            "string a = 1; option (buf.validate.message).oneof = {fields: [\"a\", \"a\"]};",
            "souk.test.v1.M",
            "message.oneof",
        ),
        ("string a = 1 [(buf.validate.field).int32.gte = 1];", "souk.test.v1.M.a", "int32.*"),
        ("int64 a = 1 [(buf.validate.field).int32.gte = 1];", "souk.test.v1.M.a", "int32.*"),
        ("repeated string a = 1 [(buf.validate.field).string.min_len = 1];", "souk.test.v1.M.a", "string"),
        ("map<string, string> a = 1 [(buf.validate.field).repeated.min_items = 1];", "souk.test.v1.M.a", "repeated"),
        ("repeated M a = 1 [(buf.validate.field).repeated.unique = true];", "souk.test.v1.M.a", "repeated.unique"),
        (
            "repeated string a = 1 [(buf.validate.field).repeated.items.required = true];",
            "souk.test.v1.M.a",
            "required",
        ),
        (
            "repeated string a = 1 [(buf.validate.field).repeated.items.string.ulid = true];",
            "souk.test.v1.M.a",
            "string.ulid",
        ),
        (
            "map<string, string> a = 1 [(buf.validate.field).map.keys.cel_expression = \"true\"];",
            "souk.test.v1.M.a",
            "cel_expression",
        ),
        ("string a = 1 [(buf.validate.field).string.pattern = \"(\"];", "souk.test.v1.M.a", "string.pattern"),
        ("string a = 1 [(buf.validate.field).string.pattern = \"^\\\\d$\"];", "souk.test.v1.M.a", "string.pattern"),
        (
            "string a = 1 [(buf.validate.field).string.well_known_regex = KNOWN_REGEX_HTTP_HEADER_NAME];",
            "souk.test.v1.M.a",
            "string.well_known_regex",
        ),
        ("bytes a = 1 [(buf.validate.field).bytes.ip = true];", "souk.test.v1.M.a", "bytes.ip"),
        (
            "google.protobuf.StringValue a = 1 [(buf.validate.field).string.min_len = 1];",
            "souk.test.v1.M.a",
            "string.*",
        ),
        ("string a = 1 [(buf.validate.field).string.hostname = true];", "souk.test.v1.M.a", "string.hostname"),
        ("google.protobuf.Any a = 1 [(buf.validate.field).any.in = \"a\"];", "souk.test.v1.M.a", "any.*"),
        (
            "google.protobuf.FieldMask a = 1 [(buf.validate.field).field_mask.in = \"a\"];",
            "souk.test.v1.M.a",
            "field_mask.*",
        ),
    ];
    for (body, element, rule) in cases {
        let contract = format!(
            "syntax = \"proto3\"; package souk.test.v1; import \"buf/validate/validate.proto\"; \
             import \"google/protobuf/any.proto\"; import \"google/protobuf/wrappers.proto\"; import \"google/protobuf/field_mask.proto\"; message M {{ {body} }}"
        );
        let error = Validator::new(&pool(&contract)).expect_err(body);
        assert_eq!(
            (error.file.as_str(), error.element.as_str(), error.rule.as_str()),
            ("test.proto", element, rule),
            "{error}"
        );
    }
}

/// Extensions of the rule messages of validate.proto are not supported.
#[test]
fn predefined_rules_are_refused() {
    let contract = "syntax = \"proto2\"; package souk.test.v1; import \"buf/validate/validate.proto\"; \
        extend buf.validate.StringRules { optional bool shouting = 1800; } \
        message M { optional string a = 1 [(buf.validate.field).string.(souk.test.v1.shouting) = true]; }";
    let error = Validator::new(&pool(contract)).unwrap_err();
    assert!(error.to_string().contains("shouting"), "{error}");
}

#[test]
fn unsupported_rules_outside_of_souk_are_ignored() {
    let foreign = "message M { string a = 1 [(buf.validate.field).cel_expression = \"true\"]; }";
    let head = "syntax = \"proto3\"; package other; import \"buf/validate/validate.proto\";";
    assert!(Validator::new(&pool(&format!("{head} {foreign}"))).is_ok());
}

/// In a contract of others, supported rules are checked, and unsupported ones are reported, not refused.
#[test]
fn a_foreign_contract_is_checked_as_far_as_possible() {
    let contract = "syntax = \"proto3\"; package other; import \"buf/validate/validate.proto\";
        service S { rpc Put(M) returns (Unused); }
        message Unused { string a = 1 [(buf.validate.field).cel_expression = \"true\"]; }
        message M {
          option (buf.validate.message).cel_expression = \"true\";
          string a = 1 [(buf.validate.field) = {required: true, cel_expression: \"true\"}];
          string b = 2 [(buf.validate.field).string.max_len = 2];
          repeated N n = 3;
        }
        message N { int32 c = 1 [(buf.validate.field).int32.gte = 1]; }";
    let pool = pool(contract);
    let (validator, left_out) = Validator::lenient(&pool);
    let left_out: Vec<_> = left_out.iter().map(|rule| (rule.element.as_str(), rule.rule.as_str())).collect();
    assert_eq!(left_out, [("other.M", "cel_expression"), ("other.M.a", "cel_expression")]);
    let bad = message(&pool, "other.M", &json!({"b": "abc", "n": [{"c": 1}, {}]}));
    let expected = [("b", "string.max_len"), ("n[1].c", "int32.gte")];
    assert_eq!(broken(&validator, &bad), expected.map(|(path, rule)| (path.to_owned(), rule.to_owned())));
    // The rule about characters in texts applies only to souk's contracts.
    let odd = message(&pool, "other.M", &json!({"a": "\0", "n": [{"c": 1}]}));
    assert_eq!(validator.check(&odd), Ok(()));
    assert!(validator.text(&pool.get_message_by_name("other.M").unwrap().get_field(1).unwrap()).is_none());
}

/// A limit of a range, and whether the limit itself is in the range.
type Limit = Option<(i64, bool)>;

const KINDS: [&str; 4] = ["int32", "sint64", "float", "double"];

fn limits() -> impl Iterator<Item = Limit> {
    let some = (-3..=3).flat_map(|limit| [Some((limit, false)), Some((limit, true))]);
    std::iter::once(None).chain(some)
}

/// One message for each kind of number and each pair of limits, in this order.
static RANGES: LazyLock<(DescriptorPool, Validator)> = LazyLock::new(|| {
    let mut contract = "syntax = \"proto3\"; package souk.test.v1; \
        import \"buf/validate/validate.proto\";\n"
        .to_owned();
    for (at, (kind, lower, upper)) in ranges().enumerate() {
        let rule = |name: &str, inclusive: &str, limit: Limit| match limit {
            Some((limit, false)) => format!("{name}: {limit} "),
            Some((limit, true)) => format!("{inclusive}: {limit} "),
            None => String::new(),
        };
        let (lower, upper) = (rule("gt", "gte", lower), rule("lt", "lte", upper));
        let option = format!("(buf.validate.field).{kind} = {{{lower}{upper}}}");
        writeln!(contract, "message M{at} {{ {kind} a = 1 [{option}]; }}").unwrap();
    }
    let pool = pool(&contract);
    let validator = Validator::new(&pool).unwrap();
    (pool, validator)
});

fn ranges() -> impl Iterator<Item = (&'static str, Limit, Limit)> {
    KINDS.into_iter().flat_map(|kind| limits().flat_map(move |lower| limits().map(move |upper| (kind, lower, upper))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Compares a range's limits, in any combination, with a model that checks each limit separately.
    #[test]
    fn ranges_equal_a_naive_model(
        at in 0..ranges().count(),
        value in prop_oneof![8 => -5i64..=5, 1 => Just(i64::from(i32::MIN)), 1 => Just(i64::from(i32::MAX))],
    ) {
        let (kind, lower, upper) = ranges().nth(at).unwrap();
        let above = lower.is_none_or(|(limit, inclusive)| value > limit || (inclusive && value == limit));
        let below = upper.is_none_or(|(limit, inclusive)| value < limit || (inclusive && value == limit));
        let outside = matches!((lower, upper), (Some((lower, _)), Some((upper, _))) if upper < lower);
        let expected = if outside { above || below } else { above && below };

        let (pool, validator) = &*RANGES;
        let message = message(pool, &format!("souk.test.v1.M{at}"), &json!({"a": value}));
        prop_assert_eq!(validator.check(&message).is_ok(), expected, "{} {:?} {:?} {}", kind, lower, upper, value);
    }
}

fn souk() -> (DescriptorPool, Validator) {
    let pool = DescriptorPool::decode(souk_proto::DESCRIPTORS).unwrap();
    let validator = Validator::new(&pool).expect("souk's contracts have only rules that are checked");
    (pool, validator)
}

fn order() -> serde_json::Value {
    let id = "01k9xj6v3te2q8s4m5n7r0p1wz";
    json!({
        "requestId": "a",
        "items": [{"product": format!("products/prd_{id}"), "quantity": "1"}, {"product": format!("products/prd_{id}"), "quantity": "2"}],
        "shippingAddress": {"recipient": "A. Smith", "addressLines": ["1 High St"], "regionCode": "GB"},
        "paymentToken": "tok_approved",
    })
}

#[test]
fn all_violations_of_a_message_are_reported() {
    let (pool, validator) = souk();
    let name = "souk.order.v1.PlaceOrderRequest";
    assert_eq!(validator.check(&message(&pool, name, &order())), Ok(()));

    let mut bad = order();
    bad["requestId"] = json!("");
    bad["items"][0]["product"] = json!("products/4711");
    bad["items"][1]["quantity"] = json!("0");
    bad["shippingAddress"]["regionCode"] = json!("gb");
    bad["shippingAddress"]["addressLines"] = json!(["", "b"]);
    bad["customer"] = json!("me");
    bad.as_object_mut().unwrap().remove("paymentToken");
    let violations = validator.check(&message(&pool, name, &bad)).unwrap_err();
    let expected = [
        ("request_id", "string.pattern"),
        ("items[0].product", "string.pattern"),
        ("items[1].quantity", "int64.gte_lte"),
        ("shipping_address.address_lines[0]", "string.min_len"),
        ("shipping_address.region_code", "string.pattern"),
        ("payment_token", "string.min_len"),
        ("customer", "string.pattern"),
    ];
    let found: Vec<_> = violations.iter().map(|v| (v.field_path.as_str(), v.rule_id.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!(
        violations[1].message,
        "must match ^products/prd_[0-7][0-9a-hjkmnp-tv-z]{25}$ (for example products/prd_01k9xj6v3te2q8s4m5n7r0p1wz)"
    );

    let empty = broken(&validator, &message(&pool, name, &json!({})));
    let paths: Vec<_> = empty.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["request_id", "items", "shipping_address", "payment_token"]);
}

/// Checks an empty message of every type with rules in souk's contracts: it is valid or has violations, and the check
/// never panics.
#[test]
fn all_of_souks_messages_can_be_checked() {
    let (pool, validator) = souk();
    let mut with_rules = 0;
    for descriptor in pool.all_messages().filter(|message| message.package_name().starts_with("souk.")) {
        let message = DynamicMessage::new(descriptor.clone());
        if validator.has_rules(&descriptor) {
            with_rules += 1;
            if let Err(violations) = validator.check(&message) {
                assert!(violations.iter().all(|v| !v.message.is_empty() && !v.rule_id.is_empty()));
            }
        } else {
            assert_eq!(validator.check(&message), Ok(()));
        }
    }
    assert!(with_rules > 20, "{with_rules} messages with rules");
}

/// The check also works on messages that were decoded as generated types, by their descriptors.
#[test]
fn a_decoded_message_is_checked() {
    use prost::Message;
    let (pool, validator) = souk();
    let request = souk_proto::order::v1::GetOrderRequest { name: "orders/1".to_owned() };
    let descriptor = pool.get_message_by_name("souk.order.v1.GetOrderRequest").unwrap();
    let decoded = DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice()).unwrap();
    assert_eq!(broken(&validator, &decoded), [("name".to_owned(), "string.pattern".to_owned())]);
}
