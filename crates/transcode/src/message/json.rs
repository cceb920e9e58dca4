//! Reads proto3 JSON into messages, strictly, and reports every error with its place.
//!
//! prost-reflect's own reader stops at the first error and does not say where it is. It also accepts JSON that the
//! specification forbids: a field given twice, null in a list. And its parser has already converted numbers to floats.
//! So this reader visits the whole document, and reads numbers as they were written.

mod dynamic;

pub mod any;

use std::{borrow::Cow, fmt};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    scalar::{self, Raw, convert},
    violation::{Path, Violations, suggestion},
};

/// The deepest nesting of messages. Less than the limit of protobuf's own decoders, which is 100.
const DEEPEST: usize = 90;

/// Reads a body that is a whole message.
///
/// # Errors
/// If the body is not JSON. All other errors are added to `found`.
pub fn message(
    descriptor: &MessageDescriptor,
    body: &[u8],
    path: Path<'_>,
    found: &mut Violations,
) -> Result<DynamicMessage, serde_json::Error> {
    let kind = Kind::Message(descriptor.clone());
    let read = read(Slot { kind: &kind, shape: Shape::One, path: &path, depth: 0 }, body, found)?;
    Ok(match read {
        Read::Value(Value::Message(message)) => message,
        Read::Null => {
            found.wrong(path, scalar::expected(&kind));
            DynamicMessage::new(descriptor.clone())
        }
        _ => DynamicMessage::new(descriptor.clone()),
    })
}

/// Reads a body that is the value of one field. `None` if the value is null or wrong.
///
/// # Errors
/// If the body is not JSON. All other errors are added to `found`.
pub fn field(
    descriptor: &FieldDescriptor,
    body: &[u8],
    path: Path<'_>,
    found: &mut Violations,
) -> Result<Option<Value>, serde_json::Error> {
    let kind = descriptor.kind();
    let slot = Slot { kind: &kind, shape: Shape::of(descriptor), path: &path, depth: 0 };
    Ok(match read(slot, body, found)? {
        Read::Value(value) => Some(value),
        _ => None,
    })
}

fn read(slot: Slot<'_>, body: &[u8], found: &mut Violations) -> Result<Read, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Seed { slot, found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(read)
}

/// The result of reading a slot.
enum Read {
    Value(Value),
    Null,
    /// An error that has been recorded.
    Wrong,
}

/// A place that takes a value.
#[derive(Clone, Copy)]
struct Slot<'a> {
    kind: &'a Kind,
    shape: Shape,
    path: &'a Path<'a>,
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
}

impl Shape {
    fn of(field: &FieldDescriptor) -> Self {
        match field {
            field if field.is_map() => Self::Map,
            field if field.is_list() => Self::List,
            _ => Self::One,
        }
    }
}

impl Slot<'_> {
    fn expected(&self) -> String {
        match self.shape {
            Shape::One => scalar::expected(self.kind),
            Shape::List => "must be an array".to_owned(),
            Shape::Map => "must be an object".to_owned(),
        }
    }

    /// The message type of the slot, if it holds a single message.
    fn message(&self) -> Option<&MessageDescriptor> {
        match self.kind {
            Kind::Message(message) if self.shape == Shape::One => Some(message),
            _ => None,
        }
    }
}

struct Seed<'a, 'f> {
    slot: Slot<'a>,
    found: &'f mut Violations,
}

impl Seed<'_, '_> {
    fn wrong(self) -> Read {
        self.found.wrong(self.slot.path, self.slot.expected());
        Read::Wrong
    }

    fn scalar(self, raw: Raw<'_>) -> Read {
        if self.slot.shape != Shape::One {
            return self.wrong();
        }
        match convert(self.slot.kind, raw) {
            Ok(value) => Read::Value(value),
            Err(detail) => {
                self.found.wrong(self.slot.path, detail);
                Read::Wrong
            }
        }
    }

    /// Reads the raw text of a JSON value into a slot that takes a number.
    fn number(self, text: &str) -> Result<Read, serde_json::Error> {
        match text.as_bytes().first() {
            Some(b'"') => {
                let text: Cow<'_, str> = serde_json::from_str(text)?;
                Ok(self.scalar(Raw::String(&text)))
            }
            Some(b'n') => self.visit_unit(),
            Some(b't') => Ok(self.scalar(Raw::Bool(true))),
            Some(b'f') => Ok(self.scalar(Raw::Bool(false))),
            Some(b'{' | b'[') => Ok(self.wrong()),
            _ => Ok(self.scalar(Raw::Number(text))),
        }
    }

    /// True if the slot is nested too deeply. Then a violation was added.
    fn is_too_deep(&mut self) -> bool {
        let too_deep = self.slot.depth >= DEEPEST;
        if too_deep {
            self.found.wrong(self.slot.path, format!("must not lie deeper than {DEEPEST} messages"));
        }
        too_deep
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Read;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Read, D::Error> {
        if self.slot.shape == Shape::One && scalar::is_number(self.slot.kind) {
            let text = <&'de RawValue>::deserialize(deserializer)?;
            return self.number(text.get()).map_err(D::Error::custom);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Read, E> {
        if self.slot.shape == Shape::One {
            match self.slot.kind {
                Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => {
                    return Ok(Read::Value(Value::EnumNumber(0)));
                }
                Kind::Message(message) if message.full_name() == "google.protobuf.Value" => {
                    return Ok(dynamic::value(message, "null_value", Value::EnumNumber(0)));
                }
                _ => {}
            }
        }
        Ok(Read::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Read, E> {
        Ok(self.scalar(Raw::Bool(value)))
    }

    // Only a `Value` takes a number here; otherwise it is an error.
    fn visit_i64<E: Error>(self, value: i64) -> Result<Read, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Read, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Read, E> {
        Ok(match dynamic::value_type(&self.slot) {
            Some(message) => dynamic::value(message, "number_value", Value::F64(value)),
            None => self.wrong(),
        })
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Read, E> {
        Ok(self.scalar(Raw::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read, A::Error> {
        if let Some(message) = self.slot.message()
            && matches!(message.full_name(), "google.protobuf.ListValue" | "google.protobuf.Value")
        {
            let message = message.clone();
            return self.array(&message, list);
        }
        if self.slot.shape != Shape::List {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.wrong());
        }
        let mut values = Vec::new();
        for index in 0.. {
            let path = self.slot.path.index(index);
            let slot = Slot { shape: Shape::One, path: &path, ..self.slot };
            match list.next_element_seed(Seed { slot, found: &mut *self.found })? {
                None => break,
                Some(Read::Value(value)) => values.push(value),
                Some(Read::Null) => self.found.wrong(path, "must not be null: leave it out"),
                Some(Read::Wrong) => {}
            }
        }
        Ok(Read::Value(Value::List(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        if self.slot.shape == Shape::Map
            && let Kind::Message(entry) = self.slot.kind
        {
            let entry = entry.clone();
            return self.entries(&entry, map);
        }
        let Some(message) = self.slot.message().cloned() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(self.wrong());
        };
        match message.full_name() {
            "google.protobuf.Struct" | "google.protobuf.Value" => self.dynamic_object(&message, map),
            "google.protobuf.Any" => self.any(&message, map),
            _ if scalar::is_textual(&message)
                || scalar::wrapped(&message).is_some()
                || message.full_name() == "google.protobuf.ListValue" =>
            {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.wrong())
            }
            _ => self.object(&message, map),
        }
    }
}

impl Seed<'_, '_> {
    fn object<'de, A: MapAccess<'de>>(mut self, descriptor: &MessageDescriptor, mut map: A) -> Result<Read, A::Error> {
        if self.is_too_deep() {
            return skip(map);
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen: Vec<u32> = Vec::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let field = descriptor.get_field_by_json_name(&name).or_else(|| descriptor.get_field_by_name(&name));
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                let fields: Vec<_> = descriptor.fields().collect();
                let known = fields.iter().map(FieldDescriptor::json_name);
                let detail = match &*name {
                    any::TYPE => "must stand in a google.protobuf.Any alone, and once".to_owned(),
                    name => unknown_field(name, descriptor, known),
                };
                self.found.unknown(self.slot.path.field(&name), detail);
                continue;
            };
            let path = self.slot.path.field(field.name());
            if seen.contains(&field.number()) {
                map.next_value::<IgnoredAny>()?;
                self.found.wrong(path, "is given twice");
                continue;
            }
            seen.push(field.number());
            let kind = field.kind();
            let slot = Slot { kind: &kind, shape: Shape::of(&field), path: &path, depth: self.slot.depth + 1 };
            let Read::Value(value) = map.next_value_seed(Seed { slot, found: &mut *self.found })? else { continue };
            match taken(&message, &field) {
                Some(other) => self.found.wrong(path, format!("must not be given together with `{other}`")),
                None => message.set_field(&field, value),
            }
        }
        Ok(Read::Value(Value::Message(message)))
    }

    fn entries<'de, A: MapAccess<'de>>(self, entry: &MessageDescriptor, mut map: A) -> Result<Read, A::Error> {
        let key_kind = entry.map_entry_key_field().kind();
        let value_kind = entry.map_entry_value_field().kind();
        let mut entries = std::collections::HashMap::new();
        while let Some(text) = map.next_key::<Cow<'de, str>>()? {
            let path = self.slot.path.key(&text);
            let slot = Slot { kind: &value_kind, shape: Shape::One, path: &path, depth: self.slot.depth + 1 };
            let value = map.next_value_seed(Seed { slot, found: &mut *self.found })?;
            let key = match convert(&key_kind, Raw::Text(&text)) {
                Ok(value) => value.into_map_key(),
                Err(detail) => {
                    self.found.wrong(path, format!("has a key that {detail}"));
                    continue;
                }
            };
            match (key, value) {
                (Some(key), Read::Value(value)) => {
                    let twice = entries.insert(key, value).is_some();
                    if twice {
                        self.found.wrong(path, "is given twice");
                    }
                }
                (_, Read::Null) => self.found.wrong(path, "must not be null: leave it out"),
                _ => {}
            }
        }
        Ok(Read::Value(Value::Map(entries)))
    }
}

/// Skips an object that is wrong as a whole.
fn skip<'de, A: MapAccess<'de>>(mut map: A) -> Result<Read, A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(Read::Wrong)
}

/// The other field of the same oneof that is already set.
pub(super) fn taken(message: &DynamicMessage, field: &FieldDescriptor) -> Option<String> {
    let oneof = field.containing_oneof()?;
    let mut others = oneof.fields().filter(|other| other.number() != field.number());
    others.find(|other| message.has_field(other)).map(|other| other.json_name().to_owned())
}

/// The error for an unknown field.
pub(super) fn unknown_field<'a>(
    name: &str,
    descriptor: &MessageDescriptor,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    let near = match suggestion(name, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    format!("is not a field of {}{near}", descriptor.name())
}
