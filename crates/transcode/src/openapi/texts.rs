//! Patterns for the characters that texts in requests may have.

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value as Json, json};

use super::Checks;

/// Keywords that already limit the texts or their characters.
const SAID: [&str; 3] = ["pattern", "enum", "const"];
/// Formats that already exclude invalid characters.
const FORMATS: [&str; 7] = ["email", "hostname", "ipv4", "ipv6", "uri", "uri-reference", "uuid"];

/// Adds the rule for every text to the schema of a field, of its items, or of its keys and values.
pub fn restrict(checks: &dyn Checks, field: &FieldDescriptor, schema: &mut Map<String, Json>) {
    let Some(pattern) = checks.text_pattern(field) else { return };
    if field.is_list() {
        return inside(schema, "items", pattern);
    }
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            if entry.map_entry_key_field().kind() == Kind::String {
                inside(schema, "propertyNames", pattern);
            }
            if entry.map_entry_value_field().kind() == Kind::String {
                inside(schema, "additionalProperties", pattern);
            }
        }
        _ => write(schema, pattern),
    }
}

fn inside(schema: &mut Map<String, Json>, key: &str, pattern: &str) {
    if let Json::Object(inner) = schema.entry(key).or_insert_with(|| json!({})) {
        write(inner, pattern);
    }
}

fn write(schema: &mut Map<String, Json>, pattern: &str) {
    let said = |schema: &Map<String, Json>| {
        let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
        SAID.iter().any(|key| schema.contains_key(*key)) || FORMATS.contains(&format)
    };
    // A text that may be empty has its other rules in one of the choices of `anyOf`.
    let choices = schema.get("anyOf").and_then(Json::as_array);
    let in_choice = choices.is_some_and(|choices| choices.iter().filter_map(Json::as_object).any(said));
    if !said(schema) && !in_choice {
        schema.insert("pattern".to_owned(), json!(pattern));
    }
}
