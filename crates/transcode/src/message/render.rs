//! Writes the JSON of a response directly from its encoded bytes, without decoding it to a message.
//!
//! The JSON form of each type is computed once, with the routes.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
};

use base64::{display::Base64Display, prelude::BASE64_STANDARD};
use chrono::{DateTime, Datelike, SecondsFormat};
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

use super::{
    json::any::{stands_as_value, type_name},
    known,
    shape::{Field, Item, Place, Shape, Shapes},
    wire::{self, Fields, Malformed, Value},
};

/// Writes responses of one type.
#[derive(Debug, Clone)]
pub struct Renderer {
    shapes: Vec<Shape>,
    /// The field that is the whole JSON, if there is one: its index in the first shape.
    alone: Option<usize>,
    /// True if fields with their default value are omitted.
    omits: bool,
}

/// Why a response cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The bytes are not a valid message of the type.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    /// A time is outside the years 1 to 9999.
    #[error("a time is not one that JSON can say")]
    Time,
    /// Messages are nested too deeply.
    #[error("the message has too many messages inside each other")]
    Depth,
    /// A duration is too long, or its seconds and nanoseconds have different signs.
    #[error("a duration is not one that JSON can say")]
    Duration,
    /// A path of a mask would change when it is read again.
    #[error("a path of a field mask has no name in JSON")]
    Mask,
    /// A `google.protobuf.Value` contains NaN or infinity.
    #[error("a google.protobuf.Value is a number that JSON does not have")]
    Number,
    /// An `Any` has a type that the contract does not contain, or content without a type.
    #[error("an Any is of no type that is known")]
    Any,
    /// JSON could not be written.
    #[error("a value cannot be written as JSON")]
    Write(#[from] serde_json::Error),
}

/// The deepest nesting of messages: the same as prost's.
const DEPTH: usize = 100;

impl Renderer {
    /// A renderer of messages of this type. If `alone` is given, only that field is written.
    pub fn new(message: &MessageDescriptor, alone: Option<&FieldDescriptor>) -> Self {
        let mut shapes = Shapes::default();
        shapes.of(message);
        let alone = alone.and_then(|alone| match shapes.list.first() {
            Some(Shape::Object(fields)) => fields.iter().position(|field| field.number == alone.number()),
            _ => None,
        });
        Self { shapes: shapes.list, alone, omits: false }
    }

    /// Omits the fields with their default value.
    #[must_use]
    pub fn omitting_defaults(mut self) -> Self {
        self.omits = true;
        self
    }

    /// The JSON of an encoded message. Fields with their default value are written, so that every response of a method
    /// has the same shape. Fields with presence are written only if they are set.
    ///
    /// # Errors
    /// If the message does not have the type, or cannot be represented in JSON.
    pub fn render(&self, message: &[u8]) -> Result<Vec<u8>, RenderError> {
        // Names and punctuation make JSON longer than the encoded message.
        let mut out = Vec::with_capacity(message.len() * 2 + 128);
        match (self.alone, self.shapes.first()) {
            (Some(index), Some(Shape::Object(fields))) => {
                let found = collect(fields, message)?;
                let values = of_field(&found, index);
                self.field(&fields[index], values, &mut out, DEPTH)?;
                if out.is_empty() {
                    out.extend_from_slice(b"null");
                }
            }
            _ => self.message(0, message, &mut out, DEPTH)?,
        }
        Ok(out)
    }

    fn message(&self, shape: usize, message: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), RenderError> {
        if depth == 0 {
            return Err(RenderError::Depth);
        }
        match &self.shapes[shape] {
            Shape::Time => time(message, out),
            Shape::Duration => duration(message, out),
            Shape::Mask => mask(message, out),
            Shape::Field(field) => {
                let found = collect(std::slice::from_ref(field), message)?;
                self.field(field, &found, out, depth)
            }
            Shape::Value(fields) => {
                let found = collect(fields, message)?;
                let Some((index, last)) = found.last() else {
                    out.extend_from_slice(b"null");
                    return Ok(());
                };
                if let (Item::Double, Value::Fixed64(bits)) = (&fields[*index].item, last)
                    && !f64::from_bits(*bits).is_finite()
                {
                    return Err(RenderError::Number);
                }
                self.field(&fields[*index], &found, out, depth)
            }
            Shape::Any(pool) => any(pool, message, out, depth),
            Shape::Object(fields) => {
                let found = collect(fields, message)?;
                out.push(b'{');
                let mut rest = found.as_slice();
                for (index, field) in fields.iter().enumerate() {
                    let count = rest.iter().take_while(|(found, _)| *found == index).count();
                    let (values, after) = rest.split_at(count);
                    rest = after;
                    if self.left_out(field, values) {
                        continue;
                    }
                    if out.last() != Some(&b'{') {
                        out.push(b',');
                    }
                    out.extend_from_slice(field.key.as_bytes());
                    self.field(field, values, out, depth)?;
                }
                out.push(b'}');
                Ok(())
            }
        }
    }

    /// True if a field is omitted from the JSON.
    fn left_out(&self, field: &Field, values: &[Found<'_>]) -> bool {
        match (&field.place, values) {
            (Place::Present, []) => true,
            (_, []) => self.omits,
            // A default value that the encoded message contains explicitly.
            (Place::Single, [.., (_, last)]) => self.omits && *last == field.item.zero(),
            _ => false,
        }
    }

    /// Writes a field's value. Writes nothing if it is not set and has no default.
    fn field(&self, field: &Field, found: &[Found<'_>], out: &mut Vec<u8>, depth: usize) -> Result<(), RenderError> {
        match (&field.place, found) {
            (Place::Present, []) => Ok(()),
            (Place::Single, []) => self.value(&field.item, field.item.zero(), out, depth),
            // A message that was written in parts is the concatenation of its parts.
            (Place::Present | Place::Single, [_, _, ..]) if matches!(field.item, Item::Message(_)) => {
                let mut whole = Vec::new();
                for (_, value) in found {
                    whole.extend_from_slice(bytes(*value)?);
                }
                self.value(&field.item, Value::Bytes(&whole), out, depth)
            }
            (Place::Present | Place::Single, [.., (_, last)]) => self.value(&field.item, *last, out, depth),
            (Place::List, _) => self.list(&field.item, found, out, depth),
            (Place::Map(key), _) => self.map(key, &field.item, found, out, depth),
        }
    }

    fn list(&self, item: &Item, found: &[Found<'_>], out: &mut Vec<u8>, depth: usize) -> Result<(), RenderError> {
        out.push(b'[');
        let mut first = true;
        let mut element = |value: Value<'_>, out: &mut Vec<u8>| {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            self.value(item, value, out, depth)
        };
        for (_, value) in found {
            match (item.zero(), *value) {
                (Value::Bytes(_), _) => element(*value, out)?,
                (number, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        element(wire::packed(number, &mut packed)?, out)?;
                    }
                }
                _ => element(*value, out)?,
            }
        }
        out.push(b']');
        Ok(())
    }

    fn map(
        &self,
        key: &Item,
        item: &Item,
        found: &[Found<'_>],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), RenderError> {
        // If a key occurs twice, the last one counts. The entries are sorted, so that the order is always the same.
        let mut entries = BTreeMap::new();
        for (_, entry) in found {
            let (mut name, mut value) = (key.zero(), item.zero());
            for field in Fields::of(bytes(*entry)?) {
                match field? {
                    (1, found) => name = found,
                    (2, found) => value = found,
                    _ => {}
                }
            }
            let mut text = Vec::new();
            self.value(key, name, &mut text, depth)?;
            entries.insert(text, value);
        }
        out.push(b'{');
        for (name, value) in entries {
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            let quoted = name.first() == Some(&b'"');
            out.extend_from_slice(if quoted { b"" } else { b"\"" });
            out.extend_from_slice(&name);
            out.extend_from_slice(if quoted { b":" } else { b"\":" });
            self.value(item, value, out, depth)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn value(&self, item: &Item, value: Value<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), RenderError> {
        match (item, value) {
            (Item::Bool, Value::Varint(number)) => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
            (Item::Int32, Value::Varint(number)) => serde_json::to_writer(out, &(number as i32))?,
            (Item::Uint32, Value::Varint(number)) => serde_json::to_writer(out, &(number as u32))?,
            // Decoders use the low half of a number before they undo the zigzag encoding.
            (Item::Sint32, Value::Varint(number)) => {
                serde_json::to_writer(out, &(zigzag(u64::from(number as u32)) as i32))?;
            }
            (Item::Fixed32, Value::Fixed32(number)) => serde_json::to_writer(out, &number)?,
            (Item::Sfixed32, Value::Fixed32(number)) => serde_json::to_writer(out, &number.cast_signed())?,
            // Numbers that a double cannot represent exactly are written as text.
            (Item::Int64, Value::Varint(number)) => quoted(&number.cast_signed(), out)?,
            (Item::Uint64, Value::Varint(number)) => quoted(&number, out)?,
            (Item::Sint64, Value::Varint(number)) => quoted(&zigzag(number), out)?,
            (Item::Fixed64, Value::Fixed64(number)) => quoted(&number, out)?,
            (Item::Sfixed64, Value::Fixed64(number)) => quoted(&number.cast_signed(), out)?,
            (Item::Float, Value::Fixed32(bits)) => {
                let number = f32::from_bits(bits);
                match not_a_number(number.into()) {
                    Some(name) => out.extend_from_slice(name),
                    None => serde_json::to_writer(out, &number)?,
                }
            }
            (Item::Double, Value::Fixed64(bits)) => {
                let number = f64::from_bits(bits);
                match not_a_number(number) {
                    Some(name) => out.extend_from_slice(name),
                    None => serde_json::to_writer(out, &number)?,
                }
            }
            (Item::Text, Value::Bytes(text)) => serde_json::to_writer(out, std::str::from_utf8(text)?)?,
            (Item::Bytes, Value::Bytes(bytes)) => {
                write!(out, "\"{}\"", Base64Display::new(bytes, &BASE64_STANDARD)).map_err(serde_json::Error::io)?;
            }
            (Item::Enum(names), Value::Varint(number)) => {
                let number = number as i32;
                match names.iter().find(|(known, _)| *known == number) {
                    Some((_, name)) => serde_json::to_writer(out, name)?,
                    None => serde_json::to_writer(out, &number)?,
                }
            }
            (Item::Null, Value::Varint(_)) => out.extend_from_slice(b"null"),
            (Item::Message(shape), Value::Bytes(message)) => self.message(*shape, message, out, depth - 1)?,
            _ => return Err(Malformed.into()),
        }
        Ok(())
    }
}

/// The index of a known field, and its value.
type Found<'a> = (usize, Value<'a>);

/// The known fields of a message, sorted by field; the values of one field are in their original order.
fn collect<'a>(fields: &[Field], message: &'a [u8]) -> Result<Vec<Found<'a>>, Malformed> {
    let mut found: Vec<Found<'a>> = Vec::with_capacity(fields.len());
    let mut chosen = false;
    for field in Fields::of(message) {
        let (number, value) = field?;
        if let Ok(index) = fields.binary_search_by_key(&number, |field| field.number) {
            chosen |= fields[index].oneof.is_some();
            found.push((index, value));
        }
    }
    if chosen {
        // Of the fields of a oneof, the one that was written last counts.
        let mut last = HashMap::new();
        for (index, _) in &found {
            if let Some(oneof) = fields[*index].oneof {
                last.insert(oneof, *index);
            }
        }
        found.retain(|(index, _)| fields[*index].oneof.is_none_or(|oneof| last.get(&oneof) == Some(index)));
    }
    if !found.is_sorted_by_key(|(index, _)| *index) {
        found.sort_by_key(|(index, _)| *index);
    }
    Ok(found)
}

fn of_field<'f, 'a>(found: &'f [Found<'a>], index: usize) -> &'f [Found<'a>] {
    let from = found.partition_point(|(found, _)| *found < index);
    let to = found.partition_point(|(found, _)| *found <= index);
    &found[from..to]
}

fn bytes(value: Value<'_>) -> Result<&[u8], Malformed> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Malformed),
    }
}

fn zigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

fn quoted(number: &impl serde::Serialize, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    out.push(b'"');
    serde_json::to_writer(&mut *out, number)?;
    out.push(b'"');
    Ok(())
}

fn not_a_number(number: f64) -> Option<&'static [u8]> {
    match number {
        _ if number.is_nan() => Some(b"\"NaN\""),
        f64::INFINITY => Some(b"\"Infinity\""),
        f64::NEG_INFINITY => Some(b"\"-Infinity\""),
        _ => None,
    }
}

/// Seconds and nanoseconds of a timestamp or a duration.
fn seconds_and_nanos(message: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Varint(number)) => seconds = number.cast_signed(),
            (2, Value::Varint(number)) => nanos = number as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

fn time(message: &[u8], out: &mut Vec<u8>) -> Result<(), RenderError> {
    let (seconds, nanos) = seconds_and_nanos(message)?;
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(RenderError::Time)?;
    let time = DateTime::from_timestamp(seconds, nanos).ok_or(RenderError::Time)?;
    if !(1..=9999).contains(&time.year()) {
        return Err(RenderError::Time);
    }
    serde_json::to_writer(out, &time.to_rfc3339_opts(SecondsFormat::AutoSi, true))?;
    Ok(())
}

fn duration(message: &[u8], out: &mut Vec<u8>) -> Result<(), RenderError> {
    let (seconds, nanos) = seconds_and_nanos(message)?;
    serde_json::to_writer(out, &known::write_duration(seconds, nanos).ok_or(RenderError::Duration)?)?;
    Ok(())
}

fn mask(message: &[u8], out: &mut Vec<u8>) -> Result<(), RenderError> {
    let mut paths = Vec::new();
    for field in Fields::of(message) {
        if let (1, Value::Bytes(path)) = field? {
            paths.push(known::write_path(std::str::from_utf8(path)?).ok_or(RenderError::Mask)?);
        }
    }
    serde_json::to_writer(out, &paths.join(","))?;
    Ok(())
}

/// Writes a message of any type, with its type name. The shape is computed each time, because most responses contain
/// such messages only in errors.
fn any(pool: &DescriptorPool, message: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), RenderError> {
    let (mut url, mut content): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(found)) => url = found,
            (2, Value::Bytes(found)) => content = found,
            _ => {}
        }
    }
    let url = std::str::from_utf8(url)?;
    if url.is_empty() && content.is_empty() {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    let descriptor = type_name(url).and_then(|name| pool.get_message_by_name(name)).ok_or(RenderError::Any)?;
    let inside = Renderer::new(&descriptor, None);
    out.extend_from_slice(b"{\"@type\":");
    serde_json::to_writer(&mut *out, url)?;
    if stands_as_value(&descriptor) {
        out.extend_from_slice(b",\"value\":");
        inside.message(0, content, out, depth - 1)?;
        out.push(b'}');
        return Ok(());
    }
    // The members of the message's object follow the type's name in the same object.
    let at = out.len();
    inside.message(0, content, out, depth - 1)?;
    if out.len() == at + b"{}".len() {
        out.remove(at);
    } else {
        out[at] = b',';
    }
    Ok(())
}
