//! Resuming a stream: the position of each message, and the position after which a stream resumes.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use souk_common::{
    contract::Method,
    error::{Problem, Reason},
};

use crate::transcode::{
    fields::FieldPath,
    scalar::{Raw, convert},
};

/// Sent by `EventSource` when it reconnects: the last `id:` that it received.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The fields that a method's option `(souk.options.v1.cursor)` names.
#[derive(Debug, Clone)]
pub struct Resume {
    request: FieldPath,
    response: FieldPath,
    output: MessageDescriptor,
}

impl Resume {
    /// The cursor fields of a method, if it has the option.
    ///
    /// # Errors
    /// A path in the option does not name a single scalar field.
    pub fn of(method: &Method) -> Result<Option<Self>, String> {
        let Some(cursor) = &method.cursor else { return Ok(None) };
        let plain = |message: MessageDescriptor, path: &str| {
            let resolved = FieldPath::resolve(&message, path).map_err(|error| error.to_string())?;
            let field = resolved.field();
            let many = field.is_list() || field.is_map() || field.kind().as_message().is_some();
            if many { Err(format!("`{path}` must be a single field that is not a message")) } else { Ok(resolved) }
        };
        let request = plain(method.descriptor.input(), &cursor.request)?;
        let response = plain(method.descriptor.output(), &cursor.response)?;
        Ok(Some(Self { request, response, output: method.descriptor.output() }))
    }

    /// Lets a request continue where the client's last stream broke off. The header overrides the position in the URL,
    /// because `EventSource` sends the same URL each time.
    ///
    /// # Errors
    /// The header has no valid value for the field.
    pub fn fill(&self, message: &mut DynamicMessage, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(()) };
        // `to_str` accepts only ASCII, but `EventSource` sends UTF-8.
        let text = std::str::from_utf8(id.as_bytes()).map_err(|_| "is not UTF-8".to_owned());
        let field = self.request.field();
        let value = text.and_then(|text| convert(&field.kind(), Raw::Text(text))).map_err(|detail| {
            Problem::new(Reason::MalformedRequest, format!("the header Last-Event-ID {detail}"))
                .field(&self.request.text, format!("{detail}, and so must the header Last-Event-ID"))
        })?;
        if let Some(holder) = self.request.holder(message) {
            holder.set_field(field, value);
        }
        Ok(())
    }

    /// The position of an encoded message. `None` if it has none, or none that is a valid `id:`.
    pub fn place(&self, message: Bytes) -> Option<String> {
        let message = DynamicMessage::decode(self.output.clone(), message).ok()?;
        let text = match self.response.get(&message)? {
            Value::String(text) => text,
            Value::Bytes(bytes) => BASE64_STANDARD.encode(bytes),
            Value::Bool(value) => value.to_string(),
            Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
            Value::I64(value) => value.to_string(),
            Value::U32(value) => value.to_string(),
            Value::U64(value) => value.to_string(),
            Value::F32(value) => value.to_string(),
            Value::F64(value) => value.to_string(),
            Value::Message(_) | Value::List(_) | Value::Map(_) => return None,
        };
        // These characters would end the line or make the client ignore the id.
        (!text.is_empty() && !text.contains(['\r', '\n', '\0'])).then_some(text)
    }
}
