//! Single values: converts values of JSON or texts of a URL to protobuf values.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};

use super::{
    known::{self, Spelling},
    number,
    violation::suggestion,
};

/// A value whose protobuf type is not known yet.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A JSON number as it was written. A conversion to a float would round it.
    Number(&'a str),
    /// A JSON string.
    String(&'a str),
    /// The text of a path variable or query parameter.
    Text(&'a str),
}

/// Converts a value to a kind.
///
/// # Errors
/// What would be valid: "must be true or false".
pub fn convert(kind: &Kind, raw: Raw<'_>) -> Result<Value, String> {
    let whole = || expected(kind);
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer::<i32>(raw).map(Value::I32).ok_or_else(whole),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer::<i64>(raw).map(Value::I64).ok_or_else(whole),
        Kind::Uint32 | Kind::Fixed32 => integer::<u32>(raw).map(Value::U32).ok_or_else(whole),
        Kind::Uint64 | Kind::Fixed64 => integer::<u64>(raw).map(Value::U64).ok_or_else(whole),
        Kind::Double => double(raw).map(Value::F64).ok_or_else(whole),
        Kind::Float => float(raw).map(Value::F32).ok_or_else(whole),
        Kind::Bool => match raw {
            Raw::Bool(value) => Ok(Value::Bool(value)),
            Raw::Text("true") => Ok(Value::Bool(true)),
            Raw::Text("false") => Ok(Value::Bool(false)),
            _ => Err(whole()),
        },
        Kind::String => match raw {
            Raw::String(text) | Raw::Text(text) => Ok(Value::String(text.to_owned())),
            _ => Err(whole()),
        },
        Kind::Bytes => match raw {
            Raw::String(text) | Raw::Text(text) => {
                base64(text).map(|bytes| Value::Bytes(bytes.into())).ok_or_else(whole)
            }
            _ => Err(whole()),
        },
        Kind::Enum(kind) => enumerated(kind, raw).map(Value::EnumNumber),
        Kind::Message(message) => well_known(message, raw).map(Value::Message),
    }
}

/// What a value of this kind must look like in JSON.
pub fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            format!("must be a whole number from {} to {}", i32::MIN, i32::MAX)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            format!("must be a whole number from {} to {}", i64::MIN, i64::MAX)
        }
        Kind::Uint32 | Kind::Fixed32 => format!("must be a whole number from 0 to {}", u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => format!("must be a whole number from 0 to {}", u64::MAX),
        Kind::Double => "must be a number, or \"NaN\", \"Infinity\" or \"-Infinity\"".to_owned(),
        Kind::Float => "must be a number of 32-bit range, or \"NaN\", \"Infinity\" or \"-Infinity\"".to_owned(),
        Kind::Bool => "must be true or false".to_owned(),
        Kind::String => "must be a string".to_owned(),
        Kind::Bytes => "must be a string in base64 or base64url".to_owned(),
        Kind::Enum(kind) => one_of(kind),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "must be a time such as 2026-01-31T12:00:00Z".to_owned(),
            "google.protobuf.Duration" => "must be a duration in seconds such as 1.5s".to_owned(),
            "google.protobuf.FieldMask" => "must be field names in lowerCamelCase, joined by commas".to_owned(),
            "google.protobuf.ListValue" => "must be an array".to_owned(),
            "google.protobuf.Any" => "must be an object with an `@type` of this API".to_owned(),
            _ => match wrapped(message) {
                Some(inner) => expected(&inner),
                None => "must be an object".to_owned(),
            },
        },
    }
}

/// True if JSON has messages of this type as one string.
pub fn is_textual(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask"
    )
}

/// The kind inside a wrapper type such as `google.protobuf.Int32Value`.
pub fn wrapped(message: &MessageDescriptor) -> Option<Kind> {
    let wrapper = matches!(
        message.full_name(),
        "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue"
    );
    wrapper.then(|| Some(message.get_field_by_name("value")?.kind()))?
}

/// True if values of the kind are numbers, so that their original text matters.
pub fn is_number(kind: &Kind) -> bool {
    match kind {
        Kind::Bool | Kind::String | Kind::Bytes => false,
        Kind::Message(message) => wrapped(message).is_some_and(|inner| is_number(&inner)),
        _ => true,
    }
}

fn well_known(message: &MessageDescriptor, raw: Raw<'_>) -> Result<DynamicMessage, String> {
    let wrong = || expected(&Kind::Message(message.clone()));
    if let Some(inner) = wrapped(message) {
        let mut wrapper = DynamicMessage::new(message.clone());
        wrapper.set_field_by_name("value", convert(&inner, raw)?);
        return Ok(wrapper);
    }
    let read = match raw {
        Raw::String(text) => known::read(message, text, Spelling::Json),
        Raw::Text(text) => known::read(message, text, Spelling::Url),
        Raw::Bool(_) | Raw::Number(_) => None,
    };
    match read {
        Some(read) => read,
        None if message.full_name() == "google.protobuf.Value" => dynamic_value(message, raw).ok_or_else(wrong),
        None => Err(wrong()),
    }
}

fn dynamic_value(message: &MessageDescriptor, raw: Raw<'_>) -> Option<DynamicMessage> {
    let (field, value) = match raw {
        Raw::Bool(value) => ("bool_value", Value::Bool(value)),
        Raw::String(text) | Raw::Text(text) => ("string_value", Value::String(text.to_owned())),
        Raw::Number(text) => ("number_value", Value::F64(number::double(text)?)),
    };
    let mut dynamic = DynamicMessage::new(message.clone());
    dynamic.try_set_field_by_name(field, value).ok()?;
    Some(dynamic)
}

fn integer<T: TryFrom<i128>>(raw: Raw<'_>) -> Option<T> {
    match raw {
        Raw::Number(text) | Raw::String(text) | Raw::Text(text) => number::integer(text),
        Raw::Bool(_) => None,
    }
}

fn double(raw: Raw<'_>) -> Option<f64> {
    match raw {
        Raw::Number(text) => number::double(text),
        Raw::String(text) | Raw::Text(text) => not_finite(text).or_else(|| number::double(text)),
        Raw::Bool(_) => None,
    }
}

fn float(raw: Raw<'_>) -> Option<f32> {
    match raw {
        Raw::Number(text) => number::float(text),
        Raw::String(text) | Raw::Text(text) => {
            not_finite(text).map(|value| value as f32).or_else(|| number::float(text))
        }
        Raw::Bool(_) => None,
    }
}

fn not_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

fn enumerated(kind: &EnumDescriptor, raw: Raw<'_>) -> Result<i32, String> {
    let number = match raw {
        Raw::String(name) | Raw::Text(name) => match kind.get_value_by_name(name) {
            Some(value) => return Ok(value.number()),
            None if matches!(raw, Raw::Text(_)) => integer::<i32>(raw),
            None => {
                let values: Vec<_> = kind.values().collect();
                let names = values.iter().map(prost_reflect::EnumValueDescriptor::name);
                return Err(match suggestion(name, names) {
                    Some(near) => format!("{}; did you mean {near}?", one_of(kind)),
                    None => one_of(kind),
                });
            }
        },
        number => integer::<i32>(number),
    };
    number.ok_or_else(|| one_of(kind))
}

fn one_of(kind: &EnumDescriptor) -> String {
    const MOST: usize = 12;
    let mut names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
    if names.len() > MOST {
        names.truncate(MOST);
        names.push("…".to_owned());
    }
    format!("must be one of {}", names.join(", "))
}
