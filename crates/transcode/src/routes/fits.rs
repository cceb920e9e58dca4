//! Checks that the longest valid REST request of each method can be sent: fields that cannot be in a body must fit into
//! the request's head, whose size is limited.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::{Route, Routes, template::Atom};
use crate::{
    message::{scalar, violation::Place},
    rules::Rules,
};

/// Bytes of a request's head that are reserved for its headers: a token, cookies, and additions of browsers and
/// proxies.
pub const FOR_HEADERS: usize = 8 * 1024;
/// The longest URI that the `http` crate parses, in bytes, whatever the limit of the head is.
const LONGEST_ADDRESS: usize = u16::MAX as usize - 1;

/// A method with valid requests that no client can send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("method {method}: {fault}")]
pub struct TooLong {
    /// Full name of the method.
    pub method: String,
    /// The route, and the cause.
    pub fault: String,
}

impl<M> Routes<M> {
    /// Checks that each method has a route for the longest request that the contract allows, with a head of at most
    /// this many bytes.
    ///
    /// # Errors
    /// The first method that has no such route.
    pub fn fit(&self, max_header_bytes: usize) -> Result<(), TooLong> {
        let room = max_header_bytes.saturating_sub(FOR_HEADERS).min(LONGEST_ADDRESS);
        for routes in self.list.chunk_by(|one, other| one.descriptor == other.descriptor) {
            let faults: Vec<_> = routes.iter().filter_map(|route| fault(route, room)).collect();
            if faults.len() == routes.len() {
                let method = routes[0].descriptor.full_name().to_owned();
                let advice = "give its fields limits, or the method an additional binding with a body";
                return Err(TooLong { method, fault: format!("{}: {advice}", faults.join("; ")) });
            }
        }
        Ok(())
    }
}

/// Describes the fault if the longest request of a route has more than `room` bytes.
fn fault<M>(route: &Route<M>, room: usize) -> Option<String> {
    match longest(route) {
        Ok(bytes) if bytes <= room => None,
        Ok(bytes) => Some(format!(
            "`{route}` accepts addresses of {bytes} bytes, and {room} fit into the head of a request, beside \
             {FOR_HEADERS} bytes of headers"
        )),
        Err(field) => Some(format!("`{route}` takes `{field}` in the address, and no rule says how long it may be")),
    }
}

/// Bytes of the longest URI of a route; the error is a field without a limit.
fn longest<M>(route: &Route<M>) -> Result<usize, String> {
    let mut bytes: usize = route
        .template
        .atoms
        .iter()
        .map(|atom| match atom {
            Atom::Literal(text) => text.len() + 1,
            _ => 1,
        })
        .sum();
    bytes += route.template.verb.as_ref().map_or(0, |verb| verb.len() + 1);
    let input = route.descriptor.input();
    of_message(route, &input, &mut Vec::new(), &mut bytes)?;
    Ok(bytes)
}

/// Adds the fields of a message that come in the path or the query.
fn of_message<M>(
    route: &Route<M>,
    message: &MessageDescriptor,
    way: &mut Vec<FieldDescriptor>,
    bytes: &mut usize,
) -> Result<(), String> {
    for field in message.fields() {
        way.push(field.clone());
        let dotted = |name: fn(&FieldDescriptor) -> &str| way.iter().map(name).collect::<Vec<_>>().join(".");
        let path = dotted(FieldDescriptor::name);
        let place = route.binding.place(&path);
        // The query has no form for maps. A path without a wildcard is already counted.
        let in_head = match place {
            Place::Path => !is_literal(route, &path),
            Place::Query => !field.is_map(),
            Place::Header | Place::Body => false,
        };
        match field.kind() {
            // Lists of messages, and protobuf types that are not text, have no form in a URI.
            Kind::Message(inner) if in_head && !is_plain(&inner) => {
                let written = !field.is_list() && !inner.full_name().starts_with("google.protobuf.");
                let again = way.iter().rev().skip(1).any(|outer| outer.kind().as_message() == Some(&inner));
                match (written, again) {
                    (true, true) => return Err(path),
                    (true, false) => of_message(route, &inner, way, bytes)?,
                    (false, _) => {}
                }
            }
            kind if in_head => {
                let rules = Rules::of(&field);
                // The bytes of `&name=`.
                let name = dotted(FieldDescriptor::json_name).len() + 2;
                let (times, rules) = match field.is_list() {
                    true => (rules.most_items().ok_or_else(|| path.clone())?, rules.inner("items")),
                    false => (1, rules),
                };
                let value = of_value(&field, &kind, &rules).ok_or(path)?;
                *bytes = bytes.saturating_add(times.saturating_mul(name + value));
            }
            _ => {}
        }
        way.pop();
    }
    Ok(())
}

/// True if the path determines the field's value: `{parent=services/order}`.
fn is_literal<M>(route: &Route<M>, path: &str) -> bool {
    let variable = route.template.variables.iter().find(|variable| variable.field == path);
    let atoms = variable.and_then(|variable| route.template.atoms.get(variable.start..variable.end));
    atoms.is_some_and(|atoms| atoms.iter().all(|atom| matches!(atom, Atom::Literal(_))))
}

/// True if a message is written as a single value.
fn is_plain(message: &MessageDescriptor) -> bool {
    scalar::is_textual(message) || scalar::wrapped(message).is_some() || message.full_name() == "google.protobuf.Value"
}

/// The most bytes of a value in a URI; `None` if there is no limit.
fn of_value(field: &FieldDescriptor, kind: &Kind, rules: &Rules) -> Option<usize> {
    Some(match kind {
        Kind::Bool => "false".len(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => i32::MIN.to_string().len(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => i64::MIN.to_string().len(),
        // The longest shortest form of a double: `-1.7976931348623157e%2B308`.
        Kind::Float | Kind::Double => 27,
        Kind::Enum(of) => of.values().map(|value| value.name().len()).max().unwrap_or_default(),
        Kind::String => of_text(field, rules)?,
        // Base64, with all characters escaped.
        Kind::Bytes => rules.longest()?.div_ceil(3) * 4 * 3,
        Kind::Message(message) => match (message.full_name(), scalar::wrapped(message)) {
            // Nine digits of a fraction and an offset; colons and a plus are escaped.
            ("google.protobuf.Timestamp", _) => 48,
            ("google.protobuf.Duration", _) => 24,
            // Every field of a resource in the request, each with an escaped comma.
            ("google.protobuf.FieldMask", _) => {
                let others = field.parent_message().fields();
                let resources = others.filter_map(|other| other.kind().as_message().cloned());
                let names = resources.filter(|resource| !is_plain(resource)).flat_map(|resource| {
                    resource.fields().map(|field| field.json_name().len() + ESCAPED).collect::<Vec<_>>()
                });
                names.sum()
            }
            (_, Some(inner)) => of_value(field, &inner, rules)?,
            _ => return None,
        },
    })
}

fn of_text(field: &FieldDescriptor, rules: &Rules) -> Option<usize> {
    let pattern = rules.pattern().and_then(|pattern| regex_syntax::parse(&pattern).ok());
    // A character has up to four bytes, and each byte has three characters when escaped. A page token is URL-safe
    // base64.
    let widest = match (&pattern, field.name()) {
        (Some(pattern), _) => widest(pattern),
        (None, "page_token") => 1,
        (None, _) => 4 * ESCAPED,
    };
    let by_length = rules.longest().map(|length| length.saturating_mul(widest));
    let by_pattern = pattern.as_ref().and_then(written);
    by_length.into_iter().chain(by_pattern).min()
}

/// The bytes of an escaped byte: `%2F`.
const ESCAPED: usize = 3;

/// The bytes of a character in a URI.
fn escaped(character: char) -> usize {
    if character.is_ascii_alphanumeric() || "-._~".contains(character) { 1 } else { character.len_utf8() * ESCAPED }
}

/// The bytes of the longest text that matches a pattern; `None` if there is no longest text.
fn written(hir: &Hir) -> Option<usize> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(0),
        HirKind::Literal(literal) => Some(String::from_utf8_lossy(&literal.0).chars().map(escaped).sum()),
        HirKind::Class(class) => Some(widest_of(class)),
        HirKind::Capture(capture) => written(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(written).sum(),
        HirKind::Alternation(parts) => parts.iter().map(written).collect::<Option<Vec<_>>>()?.into_iter().max(),
        HirKind::Repetition(repetition) => {
            let times = usize::try_from(repetition.max?).unwrap_or(usize::MAX);
            Some(written(&repetition.sub)?.saturating_mul(times))
        }
    }
}

/// The bytes of the longest character in any text that matches a pattern.
fn widest(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => String::from_utf8_lossy(&literal.0).chars().map(escaped).max().unwrap_or_default(),
        HirKind::Class(class) => widest_of(class),
        HirKind::Capture(capture) => widest(&capture.sub),
        HirKind::Repetition(repetition) => widest(&repetition.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(widest).max().unwrap_or_default(),
    }
}

fn widest_of(class: &Class) -> usize {
    let Class::Unicode(class) = class else { return 4 * ESCAPED };
    // Beyond ASCII, the last character of a range has the most bytes.
    let of_range = |start: char, end: char| match end.is_ascii() {
        true => (start..=end).map(escaped).max().unwrap_or_default(),
        false => escaped(end),
    };
    class.ranges().iter().map(|range| of_range(range.start(), range.end())).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::routes::NoOptions;

    #[test]
    fn the_longest_match_of_a_pattern_is_computed() {
        let table = [
            ("^[A-Z]{2}$", Some(2), 1),
            ("^products/prd_[0-7][0-9a-hjkmnp-tv-z]{25}$", Some(41), 3),
            ("^(a|bcd/)?$", Some(6), 3),
            ("^[a-z]+$", None, 1),
            ("^é{1,3}$", Some(18), 6),
            ("^.{2}$", Some(24), 12),
        ];
        for (pattern, longest, width) in table {
            let pattern_hir = regex_syntax::parse(pattern).unwrap();
            assert_eq!((written(&pattern_hir), widest(&pattern_hir)), (longest, width), "{pattern}");
        }
    }

    /// Checks the numbers that decide whether a route fits. Those of names are exact.
    #[test]
    fn the_longest_url_of_a_route_is_computed() {
        let root = env!("CARGO_MANIFEST_DIR");
        let folders = [format!("{root}/tests/proto"), format!("{root}/../../proto/third_party")];
        let mut compiler = protox::Compiler::new(folders).unwrap();
        compiler.include_imports(true).open_file("library.proto").unwrap();
        let pool = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
        let routes = Routes::of(&pool, &NoOptions).unwrap();
        let of = |wanted: &str| {
            let route = routes.iter().find(|route| route.to_string() == wanted).unwrap_or_else(|| panic!("{wanted}"));
            longest(route)
        };
        let name = "&name=authors%2F1234%2Fbooks%2F12345678";
        assert_eq!(of("GET /v1/{name=authors/*/books/*}"), Ok("/v1/authors//books/".len() + name.len()));
        assert_eq!(of("GET /v1/{parent=authors/*}/books"), Err("page_token".to_owned()));
        let error = routes.fit(32 * 1024).unwrap_err().to_string();
        assert!(
            error.starts_with("method library.v1.LibraryService.CreateBook: `POST /v1/{parent=authors/*}/books` takes"),
            "{error}"
        );
    }
}
