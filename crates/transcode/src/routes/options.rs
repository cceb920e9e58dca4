//! The options of a method: its `google.api.http` rule, which is read here, and further options that the serving
//! program reads.

use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

use crate::message::{HeaderField, lenient::Leniency};

/// Gives the routes what the serving program knows of a method, beyond its types and its `google.api.http` rule. A
/// program without such knowledge uses [`NoOptions`].
pub trait MethodOptions {
    /// The data that each route of a method carries, for example its access rule.
    type Method;

    /// The data of this method's routes. `None` if clients may never call the method: then it has no routes.
    ///
    /// # Errors
    /// If the options are invalid: which option, and what would be right.
    fn method(&self, descriptor: &MethodDescriptor) -> Result<Option<Self::Method>, String>;

    /// The request headers that fill fields of the message. Such a field cannot come in the query.
    fn headers(&self, method: &Self::Method) -> Vec<HeaderField> {
        let _ = method;
        Vec::new()
    }

    /// True if the program uses the path itself, so that no route may have it.
    fn is_taken(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// The rules of requests and responses that are relaxed.
    fn leniency(&self) -> Leniency {
        Leniency::default()
    }
}

/// No options: all methods have routes, and the routes carry no data.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoOptions;

impl MethodOptions for NoOptions {
    type Method = ();

    fn method(&self, _: &MethodDescriptor) -> Result<Option<()>, String> {
        Ok(Some(()))
    }
}

/// A `google.api.HttpRule`.
#[derive(Debug, Default)]
pub(super) struct HttpRule {
    /// HTTP method and path.
    pub pattern: Option<(String, String)>,
    pub body: String,
    pub response_body: String,
    pub additional_bindings: Vec<HttpRule>,
}

impl HttpRule {
    /// The rule of a method, if it has one.
    pub fn of(descriptor: &MethodDescriptor) -> Option<Self> {
        let extension = descriptor.parent_pool().get_extension_by_name("google.api.http")?;
        let options = descriptor.options();
        if !options.has_extension(&extension) {
            return None;
        }
        options.get_extension(&extension).as_message().map(Self::read)
    }

    fn read(message: &DynamicMessage) -> Self {
        let mut rule = Self::default();
        for (field, value) in message.fields() {
            match (field.name(), value) {
                ("get" | "put" | "post" | "delete" | "patch", Value::String(path)) => {
                    rule.pattern = Some((field.name().to_uppercase(), path.clone()));
                }
                ("custom", Value::Message(custom)) => rule.pattern = Some((text(custom, "kind"), text(custom, "path"))),
                ("body", Value::String(name)) => rule.body.clone_from(name),
                ("response_body", Value::String(name)) => rule.response_body.clone_from(name),
                ("additional_bindings", Value::List(list)) => {
                    rule.additional_bindings = list.iter().filter_map(Value::as_message).map(Self::read).collect();
                }
                _ => {}
            }
        }
        rule
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
