//! `Struct`, `ListValue` and `Value`: any JSON, stored as messages.

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Read, Seed, Shape, Slot, skip};

/// The message type, if the slot holds a `google.protobuf.Value`.
pub(super) fn value_type<'a>(slot: &Slot<'a>) -> Option<&'a MessageDescriptor> {
    match slot.kind {
        Kind::Message(message) if slot.shape == Shape::One && message.full_name() == "google.protobuf.Value" => {
            Some(message)
        }
        _ => None,
    }
}

/// Wraps a value in a `google.protobuf.Value`.
pub(super) fn value(message: &MessageDescriptor, field: &str, value: Value) -> Read {
    let mut made = DynamicMessage::new(message.clone());
    made.set_field_by_name(field, value);
    Read::Value(Value::Message(made))
}

impl Seed<'_, '_> {
    /// Reads an array into a `ListValue`, or into a `Value` that holds one.
    pub(super) fn array<'de, A: SeqAccess<'de>>(
        mut self,
        message: &MessageDescriptor,
        mut list: A,
    ) -> Result<Read, A::Error> {
        if self.is_too_deep() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Read::Wrong);
        }
        self.filled(message, "list_value", "values", Shape::List, |seed| seed.visit_seq(list))
    }

    /// Reads an object into a `Struct`, or into a `Value` that holds one.
    pub(super) fn dynamic_object<'de, A: MapAccess<'de>>(
        mut self,
        message: &MessageDescriptor,
        map: A,
    ) -> Result<Read, A::Error> {
        if self.is_too_deep() {
            return skip(map);
        }
        self.filled(message, "struct_value", "fields", Shape::Map, |seed| seed.visit_map(map))
    }

    /// Fills the only field of a `Struct` or a `ListValue`. `choice` is the name of that message's field in a `Value`.
    fn filled<E>(
        self,
        message: &MessageDescriptor,
        choice: &str,
        field: &str,
        shape: Shape,
        read: impl FnOnce(Seed<'_, '_>) -> Result<Read, E>,
    ) -> Result<Read, E> {
        let chosen = message.get_field_by_name(choice).map(|field| field.kind());
        let inner = chosen.as_ref().and_then(Kind::as_message).unwrap_or(message);
        let Some(field) = inner.get_field_by_name(field) else { return Ok(self.wrong()) };
        // A `Value` is a message around the list, which is also a message.
        let depth = self.slot.depth + if chosen.is_some() { 2 } else { 1 };
        let slot = Slot { kind: &field.kind(), shape, path: self.slot.path, depth };
        let Read::Value(content) = read(Seed { slot, found: self.found })? else { return Ok(Read::Wrong) };
        let mut made = DynamicMessage::new(inner.clone());
        made.set_field(&field, content);
        Ok(match chosen {
            Some(_) => value(message, choice, Value::Message(made)),
            None => Read::Value(Value::Message(made)),
        })
    }
}
