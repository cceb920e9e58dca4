//! Converts between REST and protobuf: path, query and body become a request message, and a response message becomes
//! JSON.
//!
//! [`Binding::bind`] builds the message of a request, [`render::Renderer::render`] writes the JSON of a response.

pub mod fields;
pub mod json;
mod known;
pub mod lenient;
mod number;
pub mod query;
pub mod render;
pub mod scalar;
mod shape;
mod timestamp;
pub mod violation;
pub mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage, Value};

use self::{
    fields::{FieldPath, FieldPathError},
    lenient::Leniency,
    render::{RenderError, Renderer},
    scalar::{Raw, convert},
    violation::{Path, Place, Violations},
};

/// Builds a message from the parts of an HTTP request, by one binding of `google.api.http`.
#[derive(Debug, Clone)]
pub struct Binding {
    input: MessageDescriptor,
    /// The field of each variable in the path template, in order.
    variables: Vec<FieldPath>,
    body: Body,
    /// Writes the response, or the field of it that `response_body` names.
    pub renderer: Arc<Renderer>,
    /// The field that is the whole JSON of the response, if `response_body` names one.
    response_body: Option<FieldDescriptor>,
    headers: Vec<HeaderField>,
    /// Fields that cannot come in the query, with a text that says where they come from.
    elsewhere: Vec<(String, &'static str)>,
    /// Number of the field `etag` in the response.
    etag: Option<u32>,
    leniency: Leniency,
    /// True if the response is sent as it is.
    raw: bool,
}

/// The content of the body.
#[derive(Debug, Clone)]
enum Body {
    None,
    All,
    Field(FieldDescriptor),
    /// Any bytes, unparsed: the message is a `google.api.HttpBody`, or this field of it is one.
    Raw(Option<FieldDescriptor>),
}

/// A request header that fills a field of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderField {
    /// Name of the header, in lower case.
    pub name: String,
    /// Name of the field: a string of the request message itself.
    pub field: String,
}

/// Why a binding does not fit the types.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// A path variable names a field that does not exist.
    #[error("the path variable `{variable}`: {source}")]
    Variable {
        /// The variable, as written.
        variable: String,
        /// The cause.
        #[source]
        source: FieldPathError,
    },
    /// The field of a path variable is not a single plain value.
    #[error("the path variable `{0}` must name a single field that is neither repeated nor a message")]
    NotPlain(String),
    /// Two path variables name the same field.
    #[error("the path variable `{0}` is there twice")]
    Twice(String),
    /// `body` or `response_body` names a field that does not exist.
    #[error("`{option}: \"{name}\"` names no field of {message}")]
    NoField {
        /// `body` or `response_body`.
        option: &'static str,
        /// The name, as written.
        name: String,
        /// Full name of the message.
        message: String,
    },
}

/// Why a request cannot be converted to a message. The text may be shown to the client: repeated parts of the request
/// are shortened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The request has a body, but the method takes none.
    #[error("this method takes no body: leave it out")]
    NoBody,
    /// The body begins with U+FEFF, which JSON does not allow.
    #[error("the body begins with a byte order mark (U+FEFF): send UTF-8 without it")]
    ByteOrderMark,
    /// The body is not JSON.
    // serde_json's message gives the position and what was expected, and does not repeat the body.
    #[error("the body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// Fields that are wrong; at least one.
    #[error("{0}")]
    Fields(Violations),
}

/// A header and the field that it fills have different values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header {header} and the field {field} differ: send one of them, or both the same")]
pub struct FillError {
    /// The header's name, as passed to [`fill`].
    pub header: String,
    /// The field's path.
    pub field: String,
}

/// The parts of an HTTP request that become a message.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The values of the path's variables, in the template's order.
    pub captures: &'a [String],
    /// The query string, without its `?`.
    pub query: &'a str,
    /// The body; empty if there is none.
    pub body: &'a [u8],
    /// The body's content type. Used only if the body is not parsed.
    pub content_type: &'a str,
}

impl Binding {
    /// Resolves the names of a binding by the types of its method.
    ///
    /// # Errors
    /// If a name does not fit the types.
    pub fn new<'v>(
        input: &MessageDescriptor,
        output: &MessageDescriptor,
        variables: impl IntoIterator<Item = &'v str>,
        body: &str,
        response_body: &str,
    ) -> Result<Self, BindingError> {
        let mut resolved: Vec<FieldPath> = Vec::new();
        for variable in variables {
            let path = FieldPath::resolve(input, variable)
                .map_err(|source| BindingError::Variable { variable: variable.to_owned(), source })?;
            let field = path.field();
            if field.is_list() || field.is_map() || field.kind().as_message().is_some() {
                return Err(BindingError::NotPlain(variable.to_owned()));
            }
            if resolved.iter().any(|other| other.text == path.text) {
                return Err(BindingError::Twice(variable.to_owned()));
            }
            resolved.push(path);
        }
        let field = |option, message: &MessageDescriptor, name: &str| {
            message.get_field_by_name(name).ok_or_else(|| BindingError::NoField {
                option,
                name: name.to_owned(),
                message: message.full_name().to_owned(),
            })
        };
        let body = match body {
            "" => Body::None,
            "*" => Body::All,
            name => Body::Field(field("body", input, name)?),
        };
        let response_body = match response_body {
            "" => None,
            name => Some(field("response_body", output, name)?),
        };
        let mut elsewhere: Vec<_> = resolved.iter().map(|path| (path.text.clone(), "path")).collect();
        if let Body::Field(field) = &body {
            elsewhere.push((field.name().to_owned(), "body"));
        }
        let renderer = Arc::new(Renderer::new(output, response_body.as_ref()));
        // A response that is only one field has no `etag`.
        let etag = output
            .get_field_by_name("etag")
            .filter(|field| response_body.is_none() && field.kind() == prost_reflect::Kind::String && !field.is_list());
        let etag = etag.map(|field| field.number());
        let (input, headers, leniency) = (input.clone(), Vec::new(), Leniency::default());
        let variables = resolved;
        Ok(Self { input, variables, body, renderer, response_body, headers, elsewhere, etag, leniency, raw: false })
    }

    /// Adds the rules of REST that go beyond JSON: a `google.api.HttpBody` takes the body unparsed, and headers fill
    /// fields, which then cannot come in the query.
    #[must_use]
    pub fn over_rest(mut self, headers: Vec<HeaderField>) -> Self {
        let is_raw = lenient::is_http_body;
        self.body = match self.body {
            Body::All if is_raw(&self.input) => Body::Raw(None),
            Body::Field(field) if !field.is_list() && field.kind().as_message().is_some_and(is_raw) => {
                Body::Raw(Some(field))
            }
            other => other,
        };
        self.elsewhere.extend(headers.iter().map(|header| (header.field.clone(), "header")));
        self.headers = headers;
        self
    }

    /// The headers that fill fields. `bind` does not use them: the caller passes them to [`fill`].
    pub fn headers(&self) -> &[HeaderField] {
        &self.headers
    }

    /// Relaxes some rules of the binding. `output` is the type of the method's response.
    #[must_use]
    pub fn leniently(mut self, leniency: Leniency, output: &MessageDescriptor) -> Self {
        if leniency.omit_defaults {
            self.renderer = Arc::new(Renderer::new(output, self.response_body.as_ref()).omitting_defaults());
        }
        self.raw = leniency.raw_bodies
            && match &self.response_body {
                Some(field) => !field.is_list() && field.kind().as_message().is_some_and(lenient::is_http_body),
                None => lenient::is_http_body(output),
            };
        self.leniency = leniency;
        self
    }

    /// True if a response is not JSON but bytes with a content type from the service.
    pub fn answers_raw(&self) -> bool {
        self.raw
    }

    /// Converts an encoded response to what is sent: its JSON, or its bytes with their own content type.
    ///
    /// # Errors
    /// If the message does not have the type, or cannot be represented in JSON.
    pub fn write(&self, answer: &[u8]) -> Result<(Bytes, Option<String>), RenderError> {
        if self.raw {
            let (content_type, bytes) = lenient::unpacked(answer, self.response_body.as_ref())?;
            return Ok((bytes, Some(content_type)));
        }
        Ok((self.renderer.render(answer)?.into(), None))
    }

    /// True if the method takes a body.
    pub fn takes_body(&self) -> bool {
        !matches!(self.body, Body::None)
    }

    /// True if the body may have any content, which is not parsed.
    pub fn takes_anything(&self) -> bool {
        matches!(self.body, Body::Raw(_))
    }

    /// The field that the body contains, if it contains only one.
    pub fn body_field(&self) -> Option<&FieldDescriptor> {
        match &self.body {
            Body::Field(field) | Body::Raw(Some(field)) => Some(field),
            Body::None | Body::All | Body::Raw(None) => None,
        }
    }

    /// The field that a response's JSON contains, if it contains only one.
    pub fn response_field(&self) -> Option<&FieldDescriptor> {
        self.response_body.as_ref()
    }

    /// The etag in an encoded response, if it has one.
    pub fn own_etag<'a>(&self, answer: &'a [u8]) -> Option<&'a str> {
        wire::text(answer, self.etag?).filter(|etag| !etag.is_empty())
    }

    /// The part of the request from which a field is filled. `path` is in the names of the contract.
    pub fn place(&self, path: &str) -> Place {
        if self.variables.iter().any(|variable| variable.text == path) {
            return Place::Path;
        }
        if self.headers.iter().any(|header| header.field == path) {
            return Place::Header;
        }
        match &self.body {
            Body::All | Body::Raw(None) => Place::Body,
            Body::Field(field) | Body::Raw(Some(field)) if within(path, field.name()) => Place::Body,
            _ => Place::Query,
        }
    }

    /// Converts a JSON pointer into the message to a pointer into the body.
    pub fn pointer_in_body<'p>(&self, pointer: &'p str) -> &'p str {
        match &self.body {
            Body::Field(field) => {
                let inside = pointer.strip_prefix('/').and_then(|rest| rest.strip_prefix(field.json_name()));
                inside.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(pointer)
            }
            _ => pointer,
        }
    }

    /// Builds the request message.
    ///
    /// # Errors
    /// All fields that are wrong; or the body is invalid.
    pub fn bind(&self, parts: Parts<'_>) -> Result<DynamicMessage, BindError> {
        let mut found = Violations::default();
        let mut message = self.body(&parts, &mut found)?;
        let none = matches!(self.body, Body::All | Body::Raw(None));
        let allowed = query::Allowed { none, elsewhere: &self.elsewhere, leniency: self.leniency };
        query::bind(parts.query, allowed, &mut message, &mut found);
        for (variable, text) in self.variables.iter().zip(parts.captures) {
            set_variable(variable, text, &mut message, &mut found);
        }
        if found.list().is_empty() { Ok(message) } else { Err(BindError::Fields(found)) }
    }

    fn body(&self, parts: &Parts<'_>, found: &mut Violations) -> Result<DynamicMessage, BindError> {
        let body = parts.body;
        let empty = || DynamicMessage::new(self.input.clone());
        let is_json = matches!(self.body, Body::All | Body::Field(_));
        if is_json && body.starts_with(BYTE_ORDER_MARK) {
            return Err(BindError::ByteOrderMark);
        }
        match &self.body {
            Body::None if body.is_empty() || self.leniency.undeclared_body => Ok(empty()),
            Body::None => Err(BindError::NoBody),
            // A missing body means no fields, like `{}`.
            _ if body.is_empty() => Ok(empty()),
            Body::Raw(None) => Ok(as_it_comes(&self.input, parts)),
            Body::Raw(Some(field)) => {
                let mut message = empty();
                if let Some(inner) = field.kind().as_message() {
                    message.set_field(field, Value::Message(as_it_comes(inner, parts)));
                }
                Ok(message)
            }
            Body::All => Ok(json::message(&self.input, body, Path::ROOT, found)?),
            Body::Field(field) => {
                let path = Path::ROOT;
                let value = json::field(field, body, path.field(field.name()), found)?;
                let mut message = empty();
                if let Some(value) = value {
                    message.set_field(field, value);
                }
                Ok(message)
            }
        }
    }
}

/// U+FEFF in UTF-8. JSON must not begin with it (RFC 8259, 8.1), but some editors insert it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A `google.api.HttpBody` with the body and its content type.
fn as_it_comes(http_body: &MessageDescriptor, parts: &Parts<'_>) -> DynamicMessage {
    let mut message = DynamicMessage::new(http_body.clone());
    message.set_field_by_name("content_type", Value::String(parts.content_type.to_owned()));
    message.set_field_by_name("data", Value::Bytes(Bytes::copy_from_slice(parts.body)));
    message
}

/// True if a path is the field, or leads into it.
fn within(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Sets a field from the path. The path identifies the resource: a body may repeat it, but not contradict it.
fn set_variable(variable: &FieldPath, text: &str, message: &mut DynamicMessage, found: &mut Violations) {
    let value = match convert(&variable.field().kind(), Raw::Text(text)) {
        Ok(value) => value,
        Err(detail) => return found.wrong(&variable.text, detail),
    };
    let default = Value::default_value_for_field(variable.field());
    if let Some(other) = variable.get(message)
        && other != value
        && other != default
    {
        return found.wrong(&variable.text, "differs from the path: leave it out, or make it the same");
    }
    if let Some(holder) = variable.holder(message) {
        holder.set_field(variable.field(), value);
    }
}

/// Sets a field from a header, if the request leaves it empty.
///
/// # Errors
/// If the request has another value for the field.
pub fn fill(message: &mut DynamicMessage, field: &str, header: &str, value: &str) -> Result<(), FillError> {
    let Ok(path) = FieldPath::resolve(&message.descriptor(), field) else { return Ok(()) };
    if path.field().kind() != prost_reflect::Kind::String || path.field().is_list() {
        return Ok(());
    }
    match path.get(message) {
        Some(Value::String(there)) if there == value => Ok(()),
        Some(Value::String(there)) if !there.is_empty() => {
            Err(FillError { header: header.to_owned(), field: field.to_owned() })
        }
        _ => {
            if let Some(holder) = path.holder(message) {
                holder.set_field(path.field(), Value::String(value.to_owned()));
            }
            Ok(())
        }
    }
}
