//! Rules of strings and bytes.
use std::fmt::Write;

use prost_reflect::Value;
use regex::Regex;

use super::{
    Unsupported, email,
    rules::{Rule, Source, Test, one_of, texts},
};

/// The test of a string. Lengths are in characters (Unicode code points) unless the name says bytes.
#[derive(Debug)]
pub(super) enum StringTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Length(u64),
    MinLength(u64),
    MaxLength(u64),
    Bytes(u64),
    MinBytes(u64),
    MaxBytes(u64),
    Pattern(Regex),
    Prefix(String),
    Suffix(String),
    Contains(String),
    NotContains(String),
    NotEmpty,
    /// An empty string passes: [`StringTest::NotEmpty`] refuses it, with its own rule id.
    Email,
}

impl Test<&str> for StringTest {
    fn admits(&self, value: &str) -> bool {
        match self {
            Self::In(allowed) => allowed.iter().any(|text| text == value),
            Self::NotIn(denied) => !denied.iter().any(|text| text == value),
            Self::Length(wanted) => characters(value) == *wanted,
            Self::MinLength(least) => characters(value) >= *least,
            // No string has more characters than bytes.
            Self::MaxLength(most) => value.len() as u64 <= *most || characters(value) <= *most,
            Self::Bytes(wanted) => value.len() as u64 == *wanted,
            Self::MinBytes(least) => value.len() as u64 >= *least,
            Self::MaxBytes(most) => value.len() as u64 <= *most,
            Self::Pattern(pattern) => pattern.is_match(value),
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
            Self::Contains(part) => value.contains(part),
            Self::NotContains(part) => !value.contains(part),
            Self::NotEmpty => !value.is_empty(),
            Self::Email => value.is_empty() || email::is_email(value),
        }
    }
}

fn characters(text: &str) -> u64 {
    text.chars().count() as u64
}

/// Reads the rules of a string.
pub(super) fn read(source: &Source<'_>) -> Result<Vec<Rule<StringTest>>, Unsupported> {
    use StringTest as T;
    let mut rules = Vec::new();
    for (field, value) in source.rules.fields() {
        let name = field.name();
        let (test, message) = match (name, value) {
            ("example" | "strict", _) => continue,
            ("const", Value::String(text)) => (T::In(vec![text.clone()]), format!("must be {text:?}")),
            ("in", Value::List(_)) => {
                let message = format!("must be {}", one_of(quoted(value)));
                (T::In(texts(value)), message)
            }
            ("not_in", Value::List(_)) => {
                let message = format!("must not be {}", one_of(quoted(value)));
                (T::NotIn(texts(value)), message)
            }
            ("len", Value::U64(n)) => (T::Length(*n), format!("must have {}", count(*n, "character"))),
            ("min_len", Value::U64(1)) => (T::MinLength(1), "must not be empty".to_owned()),
            ("min_len", Value::U64(n)) => (T::MinLength(*n), at_least(*n, "character")),
            ("max_len", Value::U64(n)) => (T::MaxLength(*n), at_most(*n, "character")),
            ("len_bytes", Value::U64(n)) => (T::Bytes(*n), format!("must have {}", count(*n, "byte"))),
            ("min_bytes", Value::U64(n)) => (T::MinBytes(*n), at_least(*n, "byte")),
            ("max_bytes", Value::U64(n)) => (T::MaxBytes(*n), at_most(*n, "byte")),
            ("pattern", Value::String(text)) => {
                let pattern = compile(text).map_err(|why| source.unsupported(name, why))?;
                (T::Pattern(pattern), pattern_message(text, source))
            }
            ("prefix", Value::String(text)) => (T::Prefix(text.clone()), format!("must begin with {text:?}")),
            ("suffix", Value::String(text)) => (T::Suffix(text.clone()), format!("must end with {text:?}")),
            ("contains", Value::String(text)) => (T::Contains(text.clone()), format!("must contain {text:?}")),
            ("not_contains", Value::String(text)) => {
                (T::NotContains(text.clone()), format!("must not contain {text:?}"))
            }
            ("email", Value::Bool(false)) => continue,
            ("email", Value::Bool(true)) => {
                rules.push(source.rule("email_empty", T::NotEmpty, format!("must be {}", email::WORDS)));
                (T::Email, format!("must be {}", email::WORDS))
            }
            (other, _) => return Err(source.unknown(other)),
        };
        rules.push(source.rule(name, test, message));
    }
    Ok(rules)
}

fn quoted(value: &Value) -> Vec<String> {
    texts(value).iter().map(|text| format!("{text:?}")).collect()
}

fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

pub(super) fn at_least(number: u64, noun: &str) -> String {
    format!("must have at least {}", count(number, noun))
}

pub(super) fn at_most(number: u64, noun: &str) -> String {
    format!("must have at most {}", count(number, noun))
}

/// Compiles a pattern. Refuses syntax that does not mean the same in Rust as in RE2, which defines the rule.
fn compile(pattern: &str) -> Result<Regex, String> {
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character == '\\'
            && let Some(class @ ('d' | 'D' | 'w' | 'W' | 's' | 'S' | 'b' | 'B')) = characters.next()
        {
            return Err(format!(
                "\\{class} is ASCII for some validators and Unicode for others: write the characters out, as [0-9]"
            ));
        }
    }
    Regex::new(pattern).map_err(|error| error.to_string())
}

/// The message, for example "must match ^orders/ord_[0-7][0-9a-hjkmnp-tv-z]{25}$ (for example orders/ord_01k9…)".
fn pattern_message(pattern: &str, source: &Source<'_>) -> String {
    let mut message = format!("must match {pattern}");
    let examples = source.rules.get_field_by_name("example");
    let written = examples.as_deref().and_then(Value::as_list).and_then(|list| list.first()?.as_str());
    let example = written.map(str::to_owned).or_else(|| resource_name(pattern));
    if let Some(example) = example {
        let _ = write!(message, " (for example {example})");
    }
    message
}

/// An example for the pattern of a resource's names: a literal, then an id.
fn resource_name(pattern: &str) -> Option<String> {
    let literal = pattern.strip_prefix('^')?.strip_suffix("[0-7][0-9a-hjkmnp-tv-z]{25}$")?;
    let plain = literal.chars().all(|character| character.is_ascii_alphanumeric() || "_/".contains(character));
    plain.then(|| format!("{literal}01k9xj6v3te2q8s4m5n7r0p1wz"))
}

/// The test of bytes.
#[derive(Debug)]
pub(super) enum BytesTest {
    In(Vec<Vec<u8>>),
    NotIn(Vec<Vec<u8>>),
    Length(u64),
    MinLength(u64),
    MaxLength(u64),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
}

impl Test<&[u8]> for BytesTest {
    fn admits(&self, value: &[u8]) -> bool {
        let length = value.len() as u64;
        match self {
            Self::In(allowed) => allowed.iter().any(|bytes| bytes == value),
            Self::NotIn(denied) => !denied.iter().any(|bytes| bytes == value),
            Self::Length(wanted) => length == *wanted,
            Self::MinLength(least) => length >= *least,
            Self::MaxLength(most) => length <= *most,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
            Self::Contains(part) => part.is_empty() || value.windows(part.len()).any(|window| window == part),
        }
    }
}

/// Reads the rules of bytes.
pub(super) fn read_bytes(source: &Source<'_>) -> Result<Vec<Rule<BytesTest>>, Unsupported> {
    use BytesTest as T;
    let mut rules = Vec::new();
    for (field, value) in source.rules.fields() {
        let name = field.name();
        let (test, message) = match (name, value) {
            ("example", _) => continue,
            ("const", Value::Bytes(bytes)) => (T::In(vec![bytes.to_vec()]), format!("must be {}", hex(bytes))),
            ("in" | "not_in", Value::List(values)) => {
                let values: Vec<_> = values.iter().filter_map(Value::as_bytes).map(|b| b.to_vec()).collect();
                let shown = one_of(values.iter().map(|bytes| hex(bytes)));
                if name == "in" {
                    (T::In(values), format!("must be {shown}"))
                } else {
                    (T::NotIn(values), format!("must not be {shown}"))
                }
            }
            ("len", Value::U64(n)) => (T::Length(*n), format!("must have {}", count(*n, "byte"))),
            ("min_len", Value::U64(1)) => (T::MinLength(1), "must not be empty".to_owned()),
            ("min_len", Value::U64(n)) => (T::MinLength(*n), at_least(*n, "byte")),
            ("max_len", Value::U64(n)) => (T::MaxLength(*n), at_most(*n, "byte")),
            ("prefix", Value::Bytes(bytes)) => (T::Prefix(bytes.to_vec()), format!("must begin with {}", hex(bytes))),
            ("suffix", Value::Bytes(bytes)) => (T::Suffix(bytes.to_vec()), format!("must end with {}", hex(bytes))),
            ("contains", Value::Bytes(bytes)) => (T::Contains(bytes.to_vec()), format!("must contain {}", hex(bytes))),
            (other, _) => return Err(source.unknown(other)),
        };
        rules.push(source.rule(name, test, message));
    }
    Ok(rules)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_example_matches_its_pattern() {
        let pattern = "^orders/ord_[0-7][0-9a-hjkmnp-tv-z]{25}$";
        let example = resource_name(pattern).unwrap();
        assert!(example.starts_with("orders/ord_01k9"));
        assert!(compile(pattern).unwrap().is_match(&example));
        assert_eq!(resource_name("^[A-Z]{2}$"), None);
        assert_eq!(resource_name("^a+[0-7][0-9a-hjkmnp-tv-z]{25}$"), None);
    }

    #[test]
    fn patterns_that_mean_different_things_elsewhere_are_refused() {
        assert!(compile(r"^\d+$").unwrap_err().contains("[0-9]"));
        assert!(compile(r"^\\d$").unwrap().is_match(r"\d"));
        assert!(compile(r"^\.$").is_ok());
        assert!(compile("(").is_err());
    }
}
