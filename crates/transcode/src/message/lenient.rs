//! Rules that a program may relax, for clients that were written for another gateway.

use bytes::Bytes;
use prost_reflect::{FieldDescriptor, MessageDescriptor};

use super::wire::{Fields, Malformed, Value};

/// The rules that are relaxed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leniency {
    /// Query parameters that match no field are ignored.
    pub unknown_parameters: bool,
    /// Google's system parameters (`$alt`, `alt`, `$prettyPrint`, …) are ignored if no field has their name.
    pub system_parameters: bool,
    /// A body is ignored if the method takes none.
    pub undeclared_body: bool,
    /// Responses omit fields with their default value.
    pub omit_defaults: bool,
    /// A response that is a `google.api.HttpBody` is sent as it is, with its own content type.
    pub raw_bodies: bool,
}

impl Leniency {
    /// All rules are relaxed.
    pub const ALL: Self = Self {
        unknown_parameters: true,
        system_parameters: true,
        undeclared_body: true,
        omit_defaults: true,
        raw_bodies: true,
    };

    /// True if a query parameter that matches no field is ignored.
    pub(super) fn ignores(self, parameter: &str) -> bool {
        let system = parameter.starts_with('$') || matches!(parameter, "alt" | "prettyPrint" | "fields" | "callback");
        self.unknown_parameters || (self.system_parameters && system)
    }
}

/// True if the message is a `google.api.HttpBody`: bytes with a content type.
pub(super) fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.api.HttpBody"
}

/// The content type and the bytes of an encoded `google.api.HttpBody`, or of the one in this field of a message.
pub(super) fn unpacked(message: &[u8], field: Option<&FieldDescriptor>) -> Result<(String, Bytes), Malformed> {
    let Some(field) = field else {
        let content_type = String::from_utf8(joined(message, 1, false)?).map_err(|_| Malformed)?;
        return Ok((content_type, joined(message, 2, false)?.into()));
    };
    unpacked(&joined(message, field.number(), true)?, None)
}

/// The value of a field. If the field is a message that was written in parts, the parts are joined.
fn joined(message: &[u8], number: u32, parts: bool) -> Result<Vec<u8>, Malformed> {
    let mut found = Vec::new();
    for field in Fields::of(message) {
        if let (at, Value::Bytes(bytes)) = field?
            && at == number
        {
            if !parts {
                found.clear();
            }
            found.extend_from_slice(bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_parameters_are_distinguished_from_unknown_ones() {
        let system = Leniency { system_parameters: true, ..Leniency::default() };
        assert!(system.ignores("$alt") && system.ignores("alt") && !system.ignores("altitude"));
        assert!(!Leniency::default().ignores("$alt") && Leniency::ALL.ignores("anything"));
    }

    #[test]
    fn the_body_of_an_httpbody_is_extracted() {
        let body = b"\x0a\x0atext/plain\x12\x02hi";
        assert_eq!(unpacked(body, None).unwrap(), ("text/plain".to_owned(), Bytes::from_static(b"hi")));
        assert_eq!(unpacked(b"", None).unwrap(), (String::new(), Bytes::new()));
        assert!(unpacked(b"\x0a\x7f", None).is_err() && unpacked(b"\x0a\x01\xff", None).is_err());
    }
}
