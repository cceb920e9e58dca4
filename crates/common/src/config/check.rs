//! Checks every given setting against the defaults: it must be known and have the right type.
//!
//! Every legal setting is in a default text. So a setting that the defaults lack is unknown, and a setting must have
//! the same type as its default. An empty table in the defaults is open: it accepts any key.

use config::{Map, Value, ValueKind};

use super::error::{Fault, Origin};
use super::secret::redact;

/// Compares a table of a source with the table of the defaults, and collects the faults.
pub(super) fn table(
    known: &Map<String, Value>,
    given: &Map<String, Value>,
    path: &str,
    origin: &Origin,
    root: &Map<String, Value>,
    faults: &mut Vec<Fault>,
) {
    for (name, value) in given {
        let key = join(path, name);
        let Some(default) = known.get(name) else {
            faults.push(Fault { what: unknown(&key, origin, root), key, origin: origin.clone() });
            continue;
        };
        match (&default.kind, &value.kind) {
            (ValueKind::Table(known), ValueKind::Table(_)) if known.is_empty() => {}
            (ValueKind::Table(known), ValueKind::Table(given)) => {
                table(known, given, &key, origin, root, faults);
            }
            // The address of a service may be one address or a list.
            (ValueKind::String(_), ValueKind::Array(_)) if name == "address" => {}
            (wanted, found) if fits(wanted, found) => {}
            (wanted, found) => {
                faults.push(Fault { what: mismatch(&key, wanted, found), key, origin: origin.clone() });
            }
        }
    }
}

/// Converts the text of a variable to a value of the same type as the default at `key`.
///
/// # Errors
/// A [`Fault`] if the key is unknown or the text has the wrong type.
pub(super) fn variable(root: &Map<String, Value>, key: &str, text: &str, origin: &Origin) -> Result<ValueKind, Fault> {
    let fault = |what| Fault { key: key.to_owned(), origin: origin.clone(), what };
    let default = find(root, key).ok_or_else(|| fault(unknown(key, origin, root)))?;
    let wrong = || fault(mismatch(key, default, &ValueKind::String(text.to_owned())));
    scalar(default, text).ok_or_else(wrong)
}

fn scalar(wanted: &ValueKind, text: &str) -> Option<ValueKind> {
    Some(match wanted {
        ValueKind::Boolean(_) => ValueKind::Boolean(text.parse().ok()?),
        ValueKind::I64(_) => ValueKind::I64(text.parse().ok()?),
        ValueKind::Float(_) => ValueKind::Float(text.parse().ok()?),
        ValueKind::Array(elements) => {
            let like = elements.first().map_or(ValueKind::String(String::new()), |one| one.kind.clone());
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            ValueKind::Array(parts.map(|part| Some(scalar(&like, part)?.into())).collect::<Option<_>>()?)
        }
        ValueKind::String(_) => ValueKind::String(text.to_owned()),
        _ => return None,
    })
}

/// The default at a dotted path. Below an open table, every value is a text.
fn find<'a>(root: &'a Map<String, Value>, key: &str) -> Option<&'a ValueKind> {
    const TEXT: &ValueKind = &ValueKind::String(String::new());
    let mut table = root;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        match (&table.get(name)?.kind, names.peek()) {
            (ValueKind::Table(open), Some(_)) if open.is_empty() => return Some(TEXT),
            (ValueKind::Table(inner), Some(_)) => table = inner,
            (found, None) => return Some(found),
            (_, Some(_)) => return None,
        }
    }
    None
}

fn fits(wanted: &ValueKind, found: &ValueKind) -> bool {
    match (wanted, found) {
        (ValueKind::Float(_), ValueKind::I64(_)) => true,
        _ => std::mem::discriminant(wanted) == std::mem::discriminant(found),
    }
}

fn mismatch(key: &str, wanted: &ValueKind, found: &ValueKind) -> String {
    format!("found {}, must be {}", describe(key, found), wish(key, wanted))
}

/// Describes a value that was found, without secrets.
pub(super) fn describe(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("the text {:?}", redact(key, text)),
        ValueKind::Boolean(value) => format!("{value}"),
        ValueKind::I64(value) => format!("the number {value}"),
        ValueKind::Float(value) => format!("the number {value}"),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Table(_) => "a section".to_owned(),
        other => format!("{other}"),
    }
}

fn wish(key: &str, wanted: &ValueKind) -> String {
    match wanted {
        ValueKind::String(text) if text.is_empty() => "a text in quotes".to_owned(),
        ValueKind::String(text) => format!("a text such as {:?}", redact(key, text)),
        ValueKind::Boolean(_) => "true or false".to_owned(),
        ValueKind::I64(value) => format!("a whole number such as {value}"),
        ValueKind::Float(value) => format!("a number such as {value:?}"),
        ValueKind::Array(_) => "a list (in a variable: values with commas between)".to_owned(),
        _ => {
            format!("a section: set one of its settings, `{key}.…`")
        }
    }
}

fn unknown(key: &str, origin: &Origin, root: &Map<String, Value>) -> String {
    let mut known = Vec::new();
    leaves(root, "", &mut known);
    let spell = |key: &str| match origin {
        Origin::Variable(_) => variable_name(key),
        _ => format!("`{key}`"),
    };
    // A variable with one underscore too few should still get a suggestion.
    let plain = |key: &str| key.replace('.', "_");
    let nearest = known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&plain(key), &plain(candidate)), candidate))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((likeness, candidate)) if likeness >= 0.7 => {
            format!("unknown setting, did you mean {}?", spell(candidate))
        }
        _ => "unknown setting; `souk default-config` prints all that there are".to_owned(),
    }
}

/// The name of the variable that sets a key: `order.database.url` becomes `SOUK_ORDER__DATABASE__URL`.
pub(super) fn variable_name(key: &str) -> String {
    format!("{}{}", super::PREFIX, key.replace('.', "__").to_uppercase())
}

/// Collects the full paths of all settings. Sections that contain settings are not listed.
pub(super) fn leaves(table: &Map<String, Value>, path: &str, into: &mut Vec<String>) {
    for (name, value) in table {
        let key = join(path, name);
        match &value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => leaves(inner, &key, into),
            _ => into.push(key),
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
