//! Binds query parameters to fields: `a.b=1`, repeated parameters, enums, times, masks, wrappers.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{
    fields::{FieldPath, FieldPathError},
    json::{taken, unknown_field},
    lenient::Leniency,
    scalar::{self, Raw, convert, expected},
    violation::Violations,
};
use crate::percent::{self, Mode};

/// The most messages on the path to a field. The limit is needed because types may contain themselves.
const DEEPEST: usize = 16;

/// The fields of a request that the query may set.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    /// True if no field may come in the query, because the whole message is in the body.
    pub none: bool,
    /// Paths of fields that come in the path or in the body, with a text that says where.
    pub elsewhere: &'a [(String, &'static str)],
    /// The rules that are relaxed.
    pub leniency: Leniency,
}

/// Sets the fields that a query string names.
pub fn bind(query: &str, allowed: Allowed<'_>, message: &mut DynamicMessage, found: &mut Violations) {
    let mut given = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let name = match percent::decode(name, Mode::Query) {
            Ok(name) => name,
            Err(error) => {
                found.wrong("", format!("cannot be read: the name of a query parameter {error}"));
                continue;
            }
        };
        match percent::decode(text, Mode::Query) {
            Ok(text) => parameter(&name, &text, allowed, message, &mut given, found),
            Err(error) => found.wrong(name, error.to_string()),
        }
    }
}

fn parameter(
    name: &str,
    text: &str,
    allowed: Allowed<'_>,
    message: &mut DynamicMessage,
    given: &mut HashSet<String>,
    found: &mut Violations,
) {
    if allowed.none {
        if allowed.leniency.ignores(name) {
            return;
        }
        return found
            .unknown(name, "is not a query parameter: this method takes all its fields in the path and the body");
    }
    let root = prost_reflect::ReflectMessage::descriptor(message);
    let path = match FieldPath::resolve(&root, name) {
        Ok(path) => path,
        Err(_) if allowed.leniency.ignores(name) => return,
        Err(error) => return found.unknown(name, unknown_parameter(&root, &error, allowed)),
    };
    if let Some((_, place)) = allowed.elsewhere.iter().find(|(elsewhere, _)| path.is_within(elsewhere)) {
        return found.unknown(name, format!("is not a query parameter: this field comes in the {place}"));
    }
    if path.depth() > DEEPEST {
        return found.wrong(name, format!("must not lie deeper than {DEEPEST} messages"));
    }
    let field = path.field();
    let kind = field.kind();
    if let Some(detail) = unfit(field, &kind) {
        return found.wrong(&path.text, detail);
    }
    if !given.insert(path.text.clone()) && !field.is_list() {
        return found.wrong(&path.text, "is given twice");
    }
    let value = match convert(&kind, Raw::Text(text)) {
        Ok(value) => value,
        Err(detail) => return found.wrong(&path.text, detail),
    };
    let Some(holder) = path.holder(message) else { return };
    if field.is_list() {
        if let Value::List(list) = holder.get_field_mut(field) {
            list.push(value);
        }
    } else if let Some(other) = taken(holder, field) {
        found.wrong(&path.text, format!("must not be given together with `{other}`"));
    } else {
        holder.set_field(field, value);
    }
}

/// Why a field can never come in a query.
fn unfit(field: &FieldDescriptor, kind: &Kind) -> Option<String> {
    if field.is_map() {
        return Some("is a map: it cannot be given in the query".to_owned());
    }
    let message = kind.as_message()?;
    let fits = scalar::is_textual(message)
        || scalar::wrapped(message).is_some()
        || message.full_name() == "google.protobuf.Value";
    if fits {
        return None;
    }
    if field.is_list() || message.full_name().starts_with("google.protobuf.") {
        return Some(format!("{}: it cannot be given in the query", expected(kind)));
    }
    let example = message.fields().next();
    let example = example.map(|inner| format!(", such as `{}.{}=…`", field.json_name(), inner.json_name()));
    Some(format!("is a message: give its fields one by one{}", example.unwrap_or_default()))
}

fn unknown_parameter(root: &MessageDescriptor, error: &FieldPathError, allowed: Allowed<'_>) -> String {
    match error {
        FieldPathError::Missing { message, name } => {
            let holder = root.parent_pool().get_message_by_name(message).unwrap_or_else(|| root.clone());
            let fields: Vec<_> = holder.fields().collect();
            let top = holder.full_name() == root.full_name();
            let elsewhere =
                |field: &FieldDescriptor| top && allowed.elsewhere.iter().any(|(path, _)| path == field.name());
            let known = fields.iter().filter(|field| !elsewhere(field)).map(FieldDescriptor::json_name);
            unknown_field(name, &holder, known)
        }
        FieldPathError::NoWay { name, .. } => {
            format!("does not exist: `{name}` has no fields that the query could set")
        }
    }
}
