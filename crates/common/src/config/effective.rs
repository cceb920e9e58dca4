//! Prints the effective settings as TOML: without secrets, and with the source of every value that is not a default.

use std::collections::BTreeMap;
use std::fmt::Write;

use config::{Map, Value, ValueKind};

use super::check::join;
use super::secret::redact;
use super::{Origin, origin};

/// Prints a table as TOML, sorted by name: first the settings, then each section with a header.
pub(super) fn print(table: &Map<String, Value>, path: &str, out: &mut String) {
    let sorted: BTreeMap<_, _> = table.iter().collect();
    let (sections, settings): (Vec<_>, Vec<_>) =
        sorted.into_iter().partition(|(_, value)| matches!(value.kind, ValueKind::Table(_)));
    if !path.is_empty() && !settings.is_empty() {
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{gap}[{path}]");
    }
    for (name, value) in settings {
        let key = join(path, name);
        let _ = write!(out, "{name} = {}", toml_value(&key, &value.kind));
        match origin(value) {
            Origin::Default => out.push('\n'),
            set => {
                let _ = writeln!(out, "  # {set}");
            }
        }
    }
    for (name, value) in sections {
        if let ValueKind::Table(inner) = &value.kind {
            print(inner, &join(path, name), out);
        }
    }
}

fn toml_value(key: &str, kind: &ValueKind) -> toml::Value {
    match kind {
        ValueKind::String(text) => redact(key, text).into(),
        ValueKind::Boolean(value) => (*value).into(),
        ValueKind::I64(value) => (*value).into(),
        ValueKind::Float(value) => (*value).into(),
        ValueKind::Array(values) => {
            toml::Value::Array(values.iter().map(|value| toml_value(key, &value.kind)).collect())
        }
        ValueKind::Table(table) => toml::Value::Table(
            table.iter().map(|(name, value)| (name.clone(), toml_value(&join(key, name), &value.kind))).collect(),
        ),
        other => other.to_string().into(),
    }
}
