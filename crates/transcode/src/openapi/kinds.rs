//! JSON Schemas of single values of proto3 JSON: numbers, enums, and types with a JSON form of their own.

use prost_reflect::{EnumDescriptor, EnumValueDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use super::digits;
use crate::{
    message::scalar,
    rules::{Range, Rules},
};

/// The direction of a value. A schema describes one form for each value. The gateway accepts several, as proto3 JSON
/// requires, but generators of clients make no usable types of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A value in the body of a request.
    Body,
    /// A value in a request's path or query, which consist of text.
    Parameter,
    /// A value in a response.
    Answer,
}

/// The schema of a value. `None` if the value is a message of the contract itself, or an enum in a body: those have a
/// schema of their own, with a name.
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
                // Either alphabet of base64, padded or not.
                _ => "^(?:[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9_-]*={0,2})$",
            },
        }),
        Kind::Enum(of) if of.full_name() == "google.protobuf.NullValue" => json!({"type": "null"}),
        Kind::Enum(of) if side == Side::Parameter => json!({"type": "string", "enum": names(of, rules).0}),
        Kind::Enum(_) => return None,
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

/// The most digits with which every number fits into 64 bits. The pattern of the text allows no more.
const DIGITS: u32 = 18;

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
    if side == Side::Body && long {
        let most = 10_i128.pow(DIGITS) - 1;
        let written: Vec<Range> = ranges.iter().map(|(low, high)| (*low.max(&-most), *high.min(&most))).collect();
        let pattern = match ranges == [all] {
            true => format!("^{}[0-9]{{1,{DIGITS}}}$", if all.0 < 0 { "-?" } else { "" }),
            false => digits::pattern(&written),
        };
        // A small example, above zero if that is allowed.
        let example = 1.clamp(*low, (*high).max(*low));
        return json!({"type": "string", "format": format, "pattern": pattern, "examples": [example.to_string()]});
    }
    let mut schema = json!({"type": "integer", "format": format, "minimum": exact(*low), "maximum": exact(*high)});
    let holes: Vec<Json> = ranges.windows(2).flat_map(|two| two[0].1 + 1..two[1].0).take(100).map(exact).collect();
    if ranges.len() > 1 {
        schema["not"] = json!({"enum": holes});
    }
    schema
}

/// A JSON number without rounding. Bounds may be outside the range of `i64`.
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

/// The names of an enum's values: those that the rules allow, and the others.
pub fn names(of: &EnumDescriptor, rules: &Rules) -> (Vec<String>, Vec<String>) {
    let allowed = rules.numbers(of);
    let is_allowed = |number: i32| allowed.as_ref().is_none_or(|allowed| allowed.contains(&number));
    let (yes, no): (Vec<_>, Vec<_>) = of.values().partition(|value| is_allowed(value.number()));
    let named = |values: Vec<EnumValueDescriptor>| values.iter().map(|value| value.name().to_owned()).collect();
    (named(yes), named(no))
}

/// The schema of a protobuf type that has a JSON form of its own.
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
