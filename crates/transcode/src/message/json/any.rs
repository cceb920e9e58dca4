//! `Any`: a message whose type is given by `@type`, beside its fields.

use std::{borrow::Cow, vec};

use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, value::StringDeserializer};
use serde_json::value::RawValue;

use super::{Read, Seed, Shape, Slot, skip, unknown_field};
use crate::message::scalar;

/// The number of nesting levels that a message in an `Any` counts for. `@type` may come last, so each level may cause
/// its content to be read once more.
const LEVELS: usize = 8;

pub(super) const TYPE: &str = "@type";
const UNKNOWN: &str = "must be an object with an `@type` of this API";

/// The type's name in a type URL.
pub fn type_name(url: &str) -> Option<&str> {
    url.rsplit_once('/').map(|(_, name)| name)
}

/// True if the type's JSON is the member `value` of an `Any`, because it is not an object, or is an object of a special
/// form.
pub fn stands_as_value(message: &MessageDescriptor) -> bool {
    scalar::is_textual(message)
        || scalar::wrapped(message).is_some()
        || matches!(
            message.full_name(),
            "google.protobuf.Any"
                | "google.protobuf.Struct"
                | "google.protobuf.Value"
                | "google.protobuf.ListValue"
                | "google.protobuf.Empty"
        )
}

impl Seed<'_, '_> {
    /// Reads an object into an `Any`. `{}` is an empty `Any`.
    pub(super) fn any<'de, A: MapAccess<'de>>(mut self, any: &MessageDescriptor, mut map: A) -> Result<Read, A::Error> {
        if self.is_too_deep() {
            return skip(map);
        }
        let mut before = Vec::new();
        let url = loop {
            match map.next_key::<String>()? {
                Some(name) if name == TYPE => break Some(map.next_value::<serde_json::Value>()?),
                Some(name) => before.push((name, map.next_value::<&'de RawValue>()?)),
                None => break None,
            }
        };
        let url = match url {
            None if before.is_empty() => return Ok(Read::Value(Value::Message(DynamicMessage::new(any.clone())))),
            Some(serde_json::Value::String(url)) => url,
            _ => {
                self.found.wrong(self.slot.path.field(TYPE), "must be there, and the name of a type behind a `/`");
                return skip(map);
            }
        };
        let Some(payload) = type_name(&url).and_then(|name| any.parent_pool().get_message_by_name(name)) else {
            self.found.wrong(self.slot.path, UNKNOWN);
            return skip(map);
        };
        let kind = Kind::Message(payload.clone());
        let slot = Slot { kind: &kind, shape: Shape::One, path: self.slot.path, depth: self.slot.depth + LEVELS };
        let seed = Seed { slot, found: &mut *self.found };
        let map = Rest { before: before.into_iter(), value: None, map };
        let read = if stands_as_value(&payload) { seed.in_value(&payload, map)? } else { seed.object(&payload, map)? };
        let Read::Value(Value::Message(payload)) = read else { return Ok(Read::Wrong) };
        let mut made = DynamicMessage::new(any.clone());
        made.set_field_by_name("type_url", Value::String(url));
        made.set_field_by_name("value", Value::Bytes(payload.encode_to_vec().into()));
        Ok(Read::Value(Value::Message(made)))
    }

    /// Reads the message in the member `value` of the object.
    fn in_value<'de, A: MapAccess<'de>>(self, payload: &MessageDescriptor, mut map: A) -> Result<Read, A::Error> {
        let path = self.slot.path.field("value");
        let mut read = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == "value" && read.is_none() {
                let slot = Slot { path: &path, ..self.slot };
                read = Some(map.next_value_seed(Seed { slot, found: &mut *self.found })?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            match &*name {
                "value" => self.found.wrong(path, "is given twice"),
                name => self.found.unknown(self.slot.path.field(name), unknown_field(name, payload, ["value"])),
            }
        }
        Ok(match read {
            Some(Read::Null) => {
                self.found.wrong(path, scalar::expected(self.slot.kind));
                Read::Wrong
            }
            Some(read) => read,
            None if payload.full_name() == "google.protobuf.Empty" => {
                Read::Value(Value::Message(DynamicMessage::new(payload.clone())))
            }
            None => {
                self.found.wrong(path, "must be there: the type has a JSON form of its own");
                Read::Wrong
            }
        })
    }
}

/// The members of an object without its `@type`: first those before it, then those after it.
struct Rest<'de, A> {
    before: vec::IntoIter<(String, &'de RawValue)>,
    /// The value of the last key, if it was before `@type`.
    value: Option<&'de RawValue>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Rest<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some((name, value)) = self.before.next() else { return self.map.next_key_seed(seed) };
        self.value = Some(value);
        let name: StringDeserializer<A::Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value).map_err(A::Error::custom),
            None => self.map.next_value_seed(seed),
        }
    }
}
