//! The JSON form of each type, computed once from its descriptor.

use std::collections::HashMap;

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use super::{scalar, wire::Value};

/// The JSON form of a type.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// An object with these fields, in the order of their numbers.
    Object(Vec<Field>),
    /// `google.protobuf.Timestamp`.
    Time,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.FieldMask`.
    Mask,
    /// The JSON of the type's only field: wrappers, `google.protobuf.Struct` and `ListValue`.
    Field(Box<Field>),
    /// `google.protobuf.Value`: the JSON of its field that is set.
    Value(Vec<Field>),
    /// `google.protobuf.Any`, whose content has a type of this pool.
    Any(DescriptorPool),
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub number: u32,
    /// The text `"name":`.
    pub key: String,
    pub place: Place,
    pub item: Item,
    /// The index of the field's oneof.
    pub oneof: Option<usize>,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A single value, which is written only if it is set.
    Present,
    /// A single value, which is written with its default if it is not set.
    Single,
    List,
    /// A map with keys of this type.
    Map(Item),
}

/// The type of a value.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    Text,
    Bytes,
    /// The names of an enum's values, by number.
    Enum(Vec<(i32, String)>),
    /// `google.protobuf.NullValue`.
    Null,
    /// A message with the shape at this index.
    Message(usize),
}

impl Item {
    /// The value of a field that is not set.
    pub fn zero(&self) -> Value<'static> {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => Value::Fixed32(0),
            Self::Fixed64 | Self::Sfixed64 | Self::Double => Value::Fixed64(0),
            Self::Text | Self::Bytes | Self::Message(_) => Value::Bytes(&[]),
            _ => Value::Varint(0),
        }
    }
}

/// The shapes that were computed so far.
#[derive(Default)]
pub(super) struct Shapes {
    pub list: Vec<Shape>,
    known: HashMap<String, usize>,
}

impl Shapes {
    pub fn of(&mut self, message: &MessageDescriptor) -> usize {
        if let Some(index) = self.known.get(message.full_name()) {
            return *index;
        }
        let index = self.list.len();
        self.known.insert(message.full_name().to_owned(), index);
        // Reserves the index before the fields are computed, because they may have the same type.
        self.list.push(Shape::Object(Vec::new()));
        let mut fields: Vec<Field> = message.fields().map(|field| self.field(&field)).collect();
        fields.sort_by_key(|field| field.number);
        self.list[index] = match message.full_name() {
            "google.protobuf.Timestamp" => Shape::Time,
            "google.protobuf.Duration" => Shape::Duration,
            "google.protobuf.FieldMask" => Shape::Mask,
            "google.protobuf.Value" => Shape::Value(fields),
            "google.protobuf.Any" => Shape::Any(message.parent_pool().clone()),
            name => {
                let is_one = scalar::wrapped(message).is_some()
                    || matches!(name, "google.protobuf.Struct" | "google.protobuf.ListValue");
                match fields.pop() {
                    Some(field) if is_one && fields.is_empty() => Shape::Field(Box::new(field)),
                    last => {
                        fields.extend(last);
                        Shape::Object(fields)
                    }
                }
            }
        };
        index
    }

    fn field(&mut self, field: &FieldDescriptor) -> Field {
        let key = format!("{}:", serde_json::Value::from(field.json_name()));
        let entry = field.kind().as_message().filter(|_| field.is_map()).cloned();
        let (place, item) = match entry {
            Some(entry) => {
                let key = self.item(&entry.map_entry_key_field().kind());
                (Place::Map(key), self.item(&entry.map_entry_value_field().kind()))
            }
            None if field.cardinality() == Cardinality::Repeated => (Place::List, self.item(&field.kind())),
            None if field.supports_presence() => (Place::Present, self.item(&field.kind())),
            None => (Place::Single, self.item(&field.kind())),
        };
        let oneof = field.containing_oneof().and_then(|oneof| {
            let mut all = field.parent_message().oneofs();
            all.position(|other| other == oneof)
        });
        Field { number: field.number(), key, place, item, oneof }
    }

    fn item(&mut self, kind: &Kind) -> Item {
        match kind {
            Kind::Bool => Item::Bool,
            Kind::Int32 => Item::Int32,
            Kind::Int64 => Item::Int64,
            Kind::Uint32 => Item::Uint32,
            Kind::Uint64 => Item::Uint64,
            Kind::Sint32 => Item::Sint32,
            Kind::Sint64 => Item::Sint64,
            Kind::Fixed32 => Item::Fixed32,
            Kind::Fixed64 => Item::Fixed64,
            Kind::Sfixed32 => Item::Sfixed32,
            Kind::Sfixed64 => Item::Sfixed64,
            Kind::Float => Item::Float,
            Kind::Double => Item::Double,
            Kind::String => Item::Text,
            Kind::Bytes => Item::Bytes,
            Kind::Enum(names) if names.full_name() == "google.protobuf.NullValue" => Item::Null,
            Kind::Enum(names) => {
                Item::Enum(names.values().map(|value| (value.number(), value.name().to_owned())).collect())
            }
            Kind::Message(message) => Item::Message(self.of(message)),
        }
    }
}
