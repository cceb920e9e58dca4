//! Tests the rule for every text, in a contract with a text in every place and in souk's own contracts.

use prost_reflect::{FieldDescriptor, Kind, MapKey, MethodDescriptor, Value};

use super::*;

#[test]
fn a_text_is_checked_in_every_place_of_a_message() {
    let pool = pool(CONTRACT);
    let validator = Validator::new(&pool).unwrap();
    let cases = [
        (json!({"line": "a\0"}), &["line"][..]),
        (json!({"free": "a\0", "known": "\u{202E}"}), &["free", "known"]),
        (json!({"line": "a\nb", "free": "a\tb\r\n\u{2067}c\u{2069}"}), &["line"]),
        (json!({"lines": ["a", "\u{2066}"], "frees": ["\n", "\u{1B}"]}), &["lines[1]", "frees[1]"]),
        (
            json!({"entries": {"a": "b\0", "c\0": "d"}, "keys": {"\n": 1}}),
            &[r#"entries["a"]"#, r#"entries["c\0"]"#, r#"keys["\n"]"#],
        ),
        (
            json!({"values": {"7": {"line": "\0"}}, "inside": {"inside": {"one": "\0"}}}),
            &["values[7].line", "inside.inside.one"],
        ),
        (json!({"ignored": "\0", "ignoredItems": ["a", "\0"]}), &["ignored", "ignored_items[1]"]),
        (
            json!({"wrapped": "\0", "mask": "a.b", "struct": {"a": [{"b": "\0"}], "\0": null}}),
            &[
                "wrapped.value",
                r#"struct.fields["\0"]"#,
                r#"struct.fields["a"].list_value.values[0].struct_value.fields["b"].string_value"#,
            ],
        ),
        // Bytes are not text.
        (json!({"other": "AAA=", "line": "שלום\u{200F} £5", "plain": {"number": 1}}), &[]),
    ];
    for (json, expected) in cases {
        let message = message(&pool, "souk.test.v1.Texts", &json);
        let expected: Vec<_> = expected.iter().map(|path| ((*path).to_owned(), "souk.text".to_owned())).collect();
        assert_eq!(broken(&validator, &message), expected, "{json}");
    }
    let mask = pool.get_message_by_name("souk.test.v1.Texts").unwrap().get_field_by_name("mask").unwrap();
    let mut message = message(&pool, "souk.test.v1.Texts", &json!({"mask": "a"}));
    let Value::Message(paths) = message.get_field_mut(&mask) else { panic!("no mask") };
    paths.set_field_by_name("paths", Value::List(vec![Value::String("a\0".to_owned())]));
    assert_eq!(broken(&validator, &message), [("mask.paths[0]".to_owned(), "souk.text".to_owned())]);
}

/// A wrong character is reported once for a text, and not again by other rules that fail for the same reason.
#[test]
fn a_wrong_character_is_reported_once() {
    let (pool, validator) = souk();
    let message = message(&pool, "souk.order.v1.GetOrderRequest", &json!({"name": "orders/\0"}));
    let expected = Violation {
        field_path: "name".to_owned(),
        rule_id: "souk.text".to_owned(),
        message: "must be one line without control characters, but its character 8 is U+0000".to_owned(),
    };
    assert_eq!(validator.check(&message), Err(vec![expected]));
}

/// The path to a text in a message: fields, each of which is set.
type Way = Vec<FieldDescriptor>;

/// The paths to all texts of a message. A message inside itself is visited once.
fn ways(message: &MessageDescriptor, so_far: &Way, inside: &mut Vec<String>, found: &mut Vec<Way>) {
    if inside.iter().any(|name| name == message.full_name()) {
        return;
    }
    inside.push(message.full_name().to_owned());
    for field in message.fields() {
        let way: Way = so_far.iter().cloned().chain([field.clone()]).collect();
        let kind = field.kind();
        let within = match &kind {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind.clone(),
        };
        match within {
            Kind::String => found.push(way),
            Kind::Message(message) => ways(&message, &way, inside, found),
            _ if Text::of(&field).is_some() => found.push(way),
            _ => {}
        }
    }
    inside.pop();
}

/// Puts a text at the end of a path, and returns its place as violations report it.
fn put(message: &mut DynamicMessage, way: &[FieldDescriptor], text: &str) -> String {
    let [field, rest @ ..] = way else { return String::new() };
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    let (value, below) = match kind {
        Kind::Message(inner) => {
            let mut inner = DynamicMessage::new(inner);
            let below = put(&mut inner, rest, text);
            (Value::Message(inner), format!(".{below}"))
        }
        _ => (Value::String(text.to_owned()), String::new()),
    };
    let (value, here) = if field.is_map() {
        (Value::Map([(MapKey::String("k".to_owned()), value)].into()), r#"["k"]"#)
    } else if field.is_list() {
        (Value::List(vec![value]), "[0]")
    } else {
        (value, "")
    };
    message.set_field(field, value);
    format!("{}{here}{below}", field.name())
}

fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let services = pool.services().filter(|service| service.package_name().starts_with("souk."));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Puts U+0000 into each text of each request of souk, one at a time. The contract must refuse each, so that none
/// reaches a database.
#[test]
fn every_text_in_every_request_of_souk_is_checked() {
    let (pool, validator) = souk();
    let (mut tried, mut unchecked) = (0, Vec::new());
    for method in methods(&pool) {
        let mut found = Vec::new();
        ways(&method.input(), &Vec::new(), &mut Vec::new(), &mut found);
        for way in found {
            for text in ["a\0b", "a\u{1B}b", "a\u{202E}b"] {
                let free = way.last().and_then(Text::of) == Some(Text::Free);
                if free && text.contains('\u{202E}') {
                    continue;
                }
                let mut message = DynamicMessage::new(method.input());
                let path = put(&mut message, &way, text);
                let broken = broken(&validator, &message);
                let told = broken.iter().any(|(at, rule)| *at == path && rule == "souk.text");
                if told {
                    assert!(validator.has_rules(&method.input()), "{}", method.full_name());
                } else {
                    unchecked.push(format!("{} {path}", method.name()));
                }
                tried += 1;
            }
        }
    }
    // The service checks each product of a feed, and reports errors for each.
    unchecked.retain(|text| !text.starts_with("BatchUpsertProducts products[0]."));
    assert_eq!(unchecked, Vec::<String>::new());
    assert!(tried > 400, "{tried}");
}

/// The list of free texts. A text that is added to a contract is one line unless it is listed here.
#[test]
fn the_list_of_free_texts_is_complete() {
    let (pool, _) = souk();
    let mut free = std::collections::BTreeSet::new();
    for method in methods(&pool) {
        let mut found = Vec::new();
        ways(&method.input(), &Vec::new(), &mut Vec::new(), &mut found);
        let last = found.iter().filter_map(|way| way.last());
        free.extend(last.filter(|field| Text::of(field) == Some(Text::Free)).map(|field| field.name().to_owned()));
    }
    let free: Vec<_> = free.iter().map(String::as_str).collect();
    assert_eq!(free, ["description", "filter", "note", "query", "reason", "text"]);
}
