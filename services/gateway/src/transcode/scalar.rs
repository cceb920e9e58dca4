//! Single values: from JSON's types or from the text of a URL to those of protobuf.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};

use super::violation::suggestion;

/// A value before it has a type.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Signed(i64),
    /// A whole number.
    Unsigned(u64),
    /// A number with a fraction or an exponent, or a very large one.
    Float(f64),
    /// A JSON string.
    String(&'a str),
    /// The text of a path variable or query parameter, where everything is text.
    Text(&'a str),
}

/// Turns a value into what a kind needs.
///
/// # Errors
/// What would be right: "must be true or false".
pub fn convert(kind: &Kind, raw: Raw<'_>) -> Result<Value, String> {
    let whole = || expected(kind);
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => int::<i32>(raw).map(Value::I32).ok_or_else(whole),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => int::<i64>(raw).map(Value::I64).ok_or_else(whole),
        Kind::Uint32 | Kind::Fixed32 => int::<u32>(raw).map(Value::U32).ok_or_else(whole),
        Kind::Uint64 | Kind::Fixed64 => int::<u64>(raw).map(Value::U64).ok_or_else(whole),
        Kind::Double => float(raw).map(Value::F64).ok_or_else(whole),
        Kind::Float => float(raw).and_then(narrow).map(Value::F32).ok_or_else(whole),
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
            "google.protobuf.Any" => "must be an object with an `@type` that souk knows".to_owned(),
            "google.protobuf.Empty" => "must be {}".to_owned(),
            _ => match wrapped(message) {
                Some(inner) => expected(&inner),
                None => "must be an object".to_owned(),
            },
        },
    }
}

/// Whether messages of this type are written as one string.
pub fn is_textual(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask"
    )
}

/// The kind that a wrapper (`google.protobuf.Int32Value` and its like) wraps.
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

fn well_known(message: &MessageDescriptor, raw: Raw<'_>) -> Result<DynamicMessage, String> {
    let wrong = || expected(&Kind::Message(message.clone()));
    if let Some(inner) = wrapped(message) {
        let mut wrapper = DynamicMessage::new(message.clone());
        wrapper.set_field_by_name("value", convert(&inner, raw)?);
        return Ok(wrapper);
    }
    match (message.full_name(), raw) {
        // URLs are typed by hand: there the names of the contract will do, too.
        ("google.protobuf.FieldMask", Raw::Text(text)) => library(message, &camel(text)).ok_or_else(wrong),
        (_, Raw::String(text) | Raw::Text(text)) if is_textual(message) => library(message, text).ok_or_else(wrong),
        ("google.protobuf.Value", raw) => dynamic_value(message, raw).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// Has prost-reflect read a string.
fn library(message: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        serde::de::value::StrDeserializer::new(text);
    DynamicMessage::deserialize(message.clone(), text).ok()
}

fn dynamic_value(message: &MessageDescriptor, raw: Raw<'_>) -> Option<DynamicMessage> {
    let (field, value) = match raw {
        Raw::Bool(value) => ("bool_value", Value::Bool(value)),
        Raw::String(text) | Raw::Text(text) => ("string_value", Value::String(text.to_owned())),
        number => ("number_value", Value::F64(float(number)?)),
    };
    let mut dynamic = DynamicMessage::new(message.clone());
    dynamic.try_set_field_by_name(field, value).ok()?;
    Some(dynamic)
}

/// `display_name` as `displayName`: what the JSON form of a mask wants.
fn camel(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut upper = false;
    for character in text.chars() {
        match character {
            '_' => upper = true,
            _ if upper => {
                out.extend(character.to_uppercase());
                upper = false;
            }
            _ => out.push(character),
        }
    }
    out
}

fn int<T: TryFrom<i64> + TryFrom<u64>>(raw: Raw<'_>) -> Option<T> {
    match raw {
        Raw::Signed(value) => T::try_from(value).ok(),
        Raw::Unsigned(value) => T::try_from(value).ok(),
        Raw::Float(value) => whole(value),
        Raw::String(text) | Raw::Text(text) => {
            if let Ok(value) = text.parse::<i64>() {
                return plain(text).then(|| T::try_from(value).ok())?;
            }
            if let Ok(value) = text.parse::<u64>() {
                return plain(text).then(|| T::try_from(value).ok())?;
            }
            whole(decimal(text)?)
        }
        Raw::Bool(_) => None,
    }
}

/// Rust takes a leading `+`, JSON does not.
fn plain(text: &str) -> bool {
    !text.starts_with('+')
}

/// A whole number written with a fraction or an exponent, such as `1e3` or `5.0`.
fn whole<T: TryFrom<i64> + TryFrom<u64>>(value: f64) -> Option<T> {
    // The bounds are powers of two, exact in a float; the upper ones are just outside.
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    const TWO_64: f64 = 18_446_744_073_709_551_616.0;
    if value.fract() != 0.0 {
        None
    } else if (-TWO_63..TWO_63).contains(&value) {
        T::try_from(value as i64).ok()
    } else if (TWO_63..TWO_64).contains(&value) {
        T::try_from(value as u64).ok()
    } else {
        None
    }
}

fn float(raw: Raw<'_>) -> Option<f64> {
    match raw {
        Raw::Signed(value) => Some(value as f64),
        Raw::Unsigned(value) => Some(value as f64),
        Raw::Float(value) => Some(value).filter(|value| value.is_finite()),
        Raw::String(text) | Raw::Text(text) => match text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => decimal(text),
        },
        Raw::Bool(_) => None,
    }
}

/// A finite decimal number; Rust alone would also take `inf`, `nan` and `+1`.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    let value = (digits && plain(text)).then(|| text.parse::<f64>().ok())??;
    value.is_finite().then_some(value)
}

fn narrow(value: f64) -> Option<f32> {
    let narrow = value as f32;
    (narrow.is_finite() == value.is_finite()).then_some(narrow)
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
            None if matches!(raw, Raw::Text(_)) => int::<i32>(raw),
            None => {
                let values: Vec<_> = kind.values().collect();
                let names = values.iter().map(prost_reflect::EnumValueDescriptor::name);
                return Err(match suggestion(name, names) {
                    Some(near) => format!("{}; did you mean {near}?", one_of(kind)),
                    None => one_of(kind),
                });
            }
        },
        number => int::<i32>(number),
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
