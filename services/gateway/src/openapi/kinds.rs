//! Single values of proto3 JSON as JSON Schema: numbers, enums, and the types with a form of their own.

use prost_reflect::{EnumDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use super::{
    digits::{self, Range},
    rules::Rules,
};
use crate::transcode::scalar;

/// Which way a value goes. Answers have one form for each value; requests may choose among several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the body of a request.
    Body,
    /// In its path or query, where everything is text.
    Parameter,
    /// In an answer.
    Answer,
}

/// The schema of a value that is no message of the contract's own; `None` where it is one, or an enum of an answer,
/// which has a schema by its name.
pub fn plain(kind: &Kind, rules: &Rules, side: Side) -> Option<Map<String, Json>> {
    let schema = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            integer(rules, (i32::MIN.into(), i32::MAX.into()), "int32", side)
        }
        Kind::Uint32 | Kind::Fixed32 => integer(rules, (0, u32::MAX.into()), "uint32", side),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            integer(rules, (i64::MIN.into(), i64::MAX.into()), "int64", side)
        }
        Kind::Uint64 | Kind::Fixed64 => integer(rules, (0, u64::MAX.into()), "uint64", side),
        Kind::Double => fraction("double", side),
        Kind::Float => fraction("float", side),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({
            "type": "string",
            "contentEncoding": "base64",
            "pattern": match side {
                Side::Answer => "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
                // One alphabet or the other, padded or not.
                _ => "^(?:[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9_-]*={0,2})$",
            },
        }),
        Kind::Enum(of) if of.full_name() == "google.protobuf.NullValue" => json!({"type": "null"}),
        Kind::Enum(_) if side == Side::Answer => return None,
        Kind::Enum(of) => enumerated(of, rules, side),
        Kind::Message(message) => match scalar::wrapped(message) {
            Some(inner) => return plain(&inner, rules, side),
            None => well_known(message)?,
        },
    };
    let mut schema = match schema {
        Json::Object(schema) => schema,
        _ => Map::new(),
    };
    if side != Side::Answer {
        rules.write(&mut schema);
    }
    Some(schema)
}

/// Digits that every number of a kind can have: the pattern of the text, without rules, stops there.
fn digits_of(format: &str) -> u32 {
    if format.ends_with("32") { 9 } else { 18 }
}

fn integer(rules: &Rules, all: Range, format: &str, side: Side) -> Json {
    let long = format.ends_with("64");
    if side == Side::Answer {
        let sign = if all.0 < 0 { "-?" } else { "" };
        return match long {
            true => json!({"type": "string", "format": format, "pattern": format!("^{sign}(?:0|[1-9][0-9]{{0,19}})$")}),
            false => json!({"type": "integer", "format": format, "minimum": exact(all.0), "maximum": exact(all.1)}),
        };
    }
    let ranges = rules.ranges(all);
    let (Some((low, _)), Some((_, high))) = (ranges.first(), ranges.last()) else { return json!(false) };
    let mut schema = json!({"format": format, "minimum": exact(*low), "maximum": exact(*high)});
    let holes: Vec<Json> = ranges.windows(2).flat_map(|two| two[0].1 + 1..two[1].0).take(100).map(exact).collect();
    if ranges.len() > 1 {
        schema["not"] = json!({"enum": holes});
    }
    if side == Side::Parameter {
        schema["type"] = json!("integer");
        return schema;
    }
    // proto3 JSON writes 64 bits as text, for most clients' numbers are too short; either is read.
    schema["type"] = if long { json!(["string", "integer"]) } else { json!(["integer", "string"]) };
    let most = 10_i128.pow(digits_of(format)) - 1;
    let written: Vec<Range> = ranges.iter().map(|(low, high)| (*low.max(&-most), *high.min(&most))).collect();
    schema["pattern"] = match ranges == [all] {
        true => json!(format!("^{}[0-9]{{1,{}}}$", if all.0 < 0 { "-?" } else { "" }, digits_of(format))),
        false => json!(digits::pattern(&written)),
    };
    schema
}

/// A number as it is, for bounds may lie beyond `i64`.
fn exact(number: i128) -> Json {
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => json!(number),
        (_, Ok(number)) => json!(number),
        _ => Json::Null,
    }
}

fn fraction(format: &str, side: Side) -> Json {
    match side {
        Side::Parameter => json!({"type": "number", "format": format}),
        Side::Answer => json!({"type": ["number", "string"], "format": format, "pattern": "^(?:NaN|-?Infinity)$"}),
        Side::Body => json!({
            "type": ["number", "string"],
            "format": format,
            "pattern": "^(?:NaN|-?Infinity|-?[0-9]{1,18}(?:\\.[0-9]{1,18})?(?:[eE][-+]?[0-9])?)$",
        }),
    }
}

fn enumerated(of: &EnumDescriptor, rules: &Rules, side: Side) -> Json {
    let allowed = rules.numbers(of);
    let is_allowed = |number: i32| allowed.as_ref().is_none_or(|allowed| allowed.contains(&number));
    let names: Vec<Json> =
        of.values().filter(|value| is_allowed(value.number())).map(|value| json!(value.name())).collect();
    match (side, allowed) {
        (Side::Parameter, _) => json!({"type": "string", "enum": names}),
        (_, Some(allowed)) => {
            let numbers = allowed.into_iter().map(|number| json!(number));
            json!({"type": ["string", "integer"], "enum": names.into_iter().chain(numbers).collect::<Vec<_>>()})
        }
        (_, None) => json!({"anyOf": [
            {"type": "string", "enum": names},
            {"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX},
        ]}),
    }
}

/// Types of protobuf that have a JSON form of their own.
fn well_known(message: &MessageDescriptor) -> Option<Json> {
    Some(match message.full_name() {
        "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
        "google.protobuf.Duration" => json!({
            "type": "string",
            "pattern": "^-?[0-9]{1,11}(?:\\.[0-9]{1,9})?s$",
            "description": "Seconds, with up to nine digits of fraction.",
            "examples": ["1.5s"],
        }),
        "google.protobuf.FieldMask" => {
            json!({"type": "string", "description": "Names of fields, with dots to those inside others, and commas between."})
        }
        "google.protobuf.Struct" => json!({"type": "object"}),
        "google.protobuf.Value" => json!({}),
        "google.protobuf.ListValue" => json!({"type": "array", "items": {}}),
        "google.protobuf.Empty" => json!({"type": "object", "maxProperties": 0}),
        "google.protobuf.Any" => json!({
            "type": "object",
            "properties": {"@type": {"type": "string", "description": "Which message it is."}},
            "required": ["@type"],
        }),
        _ => return None,
    })
}
