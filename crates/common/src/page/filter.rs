//! Filters: the part of [AIP-160](https://google.aip.dev/160) that every store supports. A filter has terms
//! `field operator value`, joined by `AND`:
//!
//! `price <= 5.00 AND title:"lantern" AND create_time > 2026-01-31T12:00:00Z`
//!
//! | field type | operators | value |
//! |---|---|---|
//! | text | `=` `!=` `:` (contains) | quoted, or bare if it has no space, quote, parenthesis, comma, `=`, `<`, `>` |
//! | enum | `=` `!=` | one of its values |
//! | integer, money, time | `=` `!=` `<` `<=` `>` `>=` | `12`, `5.00`, an RFC 3339 time or a date (its first moment, UTC) |
//!
//! In quotes (single or double), a backslash escapes the next character.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};

use super::text::{any_of, instead, short};
use crate::money::Currency;

/// The maximum number of terms of a filter. Each term is compared with every scanned row.
pub const MAX_TERMS: usize = 20;

/// A field that a filter can use.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The name of the field in a filter.
    pub name: &'static str,
    /// The type of the field's values.
    pub kind: Kind,
}

impl Field {
    /// Creates a field with this name and type.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }
}

/// The type of a field's values.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these values.
    Enum(&'static [&'static str]),
    /// A whole number.
    Int,
    /// An amount of money, in units of the row's currency.
    Money,
    /// A time.
    Time,
}

/// A comparison of a field with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `:`, for texts only: the field contains the value.
    Contains,
}

/// The operators in the order of parsing: longer ones come first.
const OPS: &[(&str, Op)] = &[
    ("!=", Op::NotEqual),
    ("<=", Op::LessOrEqual),
    (">=", Op::GreaterOrEqual),
    ("=", Op::Equal),
    ("<", Op::Less),
    (">", Op::Greater),
    (":", Op::Contains),
];

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OPS.iter().find(|(_, op)| op == self).map_or("", |(text, _)| text);
        f.write_str(text)
    }
}

impl Kind {
    fn ops(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["=", "!=", ":"],
            Self::Enum(_) => &["=", "!="],
            Self::Int | Self::Money | Self::Time => &["=", "!=", "<", "<=", ">", ">="],
        }
    }
}

/// A value of a term. Its type is that of the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A value of a [`Kind::Text`] field.
    Text(String),
    /// A value of a [`Kind::Enum`] field, from the list of the field.
    Enum(&'static str),
    /// A value of a [`Kind::Int`] field.
    Int(i64),
    /// A value of a [`Kind::Money`] field.
    Money(Decimal),
    /// A value of a [`Kind::Time`] field.
    Time(DateTime<Utc>),
}

/// An exact decimal number with up to nine decimals, like `google.type.Money`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal {
    nanos: i128,
}

impl Decimal {
    const PER_UNIT: i128 = 1_000_000_000;

    /// The number in minor units of a currency. `None`: it has more decimals than the currency, or it is too large.
    #[must_use]
    pub fn minor(self, currency: Currency) -> Option<i64> {
        let scaled = self.nanos * i128::from(currency.minor_per_unit());
        if scaled % Self::PER_UNIT != 0 {
            return None;
        }
        i64::try_from(scaled / Self::PER_UNIT).ok()
    }

    /// The number in billionths.
    #[must_use]
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let dot_without_decimals = digits.ends_with('.');
        if whole.is_empty() || dot_without_decimals || decimals.len() > 9 || whole.len() > 19 {
            return None;
        }
        if !digits_only(whole) || !digits_only(decimals) {
            return None;
        }
        let units: i128 = whole.parse().ok()?;
        let nanos: i128 = format!("{decimals:0<9}").parse().ok()?;
        Some(Self { nanos: sign * (units * Self::PER_UNIT + nanos) })
    }
}

/// One condition of a filter. A row must meet all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The name of the field, see [`Field::name`].
    pub field: &'static str,
    /// The operator. It is always valid for the type of the field.
    pub op: Op,
    /// The value to compare with. It always has the type of the field.
    pub value: Value,
}

/// The reason why a filter is invalid. Its message may be shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {message}")]
pub struct FilterError {
    /// The position of the error, in characters, from 1.
    pub position: usize,
    /// What is wrong, and what would be valid.
    pub message: String,
}

/// Parses a filter over these fields. An empty text has no terms.
///
/// # Errors
/// [`FilterError`] with the position, what is wrong and what would be right.
pub fn parse(text: &str, fields: &[Field]) -> Result<Vec<Term>, FilterError> {
    let mut reader = Reader { text, at: 0 };
    let mut terms = Vec::new();
    reader.skip_spaces();
    while !reader.rest().is_empty() {
        if !terms.is_empty() {
            reader.and()?;
        }
        if terms.len() == MAX_TERMS {
            return reader.fail(reader.at, format!("a filter has at most {MAX_TERMS} terms"));
        }
        terms.push(reader.term(fields)?);
        reader.skip_spaces();
    }
    Ok(terms)
}

struct Reader<'a> {
    text: &'a str,
    /// The position in bytes, always on a character boundary.
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Consumes the following characters as long as they belong to the token.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { position: self.text[..at].chars().count() + 1, message: message.into() })
    }

    fn and(&mut self) -> Result<(), FilterError> {
        let start = self.at;
        match self.take_while(is_name) {
            "AND" => {
                self.skip_spaces();
                if self.rest().is_empty() {
                    return self.fail(self.at, "a term must follow `AND`");
                }
                Ok(())
            }
            "OR" => self.fail(start, "`OR` is not supported: terms are joined by `AND` alone"),
            word if word.eq_ignore_ascii_case("and") => self.fail(start, "write `AND` in capital letters"),
            _ => self.fail(start, "terms must be joined by `AND`, and a value with spaces be in quotes"),
        }
    }

    fn term(&mut self, fields: &[Field]) -> Result<Term, FilterError> {
        let field = self.field(fields)?;
        self.skip_spaces();
        let op = self.op(field)?;
        self.skip_spaces();
        let start = self.at;
        let text = self.value(field, op)?;
        match field.kind.read(&text) {
            Ok(value) => Ok(Term { field: field.name, op, value }),
            Err(message) => self.fail(start, format!("the value of `{}` {message}", field.name)),
        }
    }

    fn field<'f>(&mut self, fields: &'f [Field]) -> Result<&'f Field, FilterError> {
        let start = self.at;
        if self.rest().starts_with(['(', ')']) {
            return self.fail(start, "parentheses are not supported: join terms by `AND`");
        }
        let minus = self.rest().starts_with('-');
        let name = self.take_while(is_name);
        if minus || (name == "NOT" && !self.rest().trim_start().starts_with(['=', '!', '<', '>', ':'])) {
            return self.fail(start, "negation is not supported: use `!=`");
        }
        let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
        if name.is_empty() {
            return self.fail(start, format!("a field must stand here: {}", any_of(&names)));
        }
        match fields.iter().find(|field| field.name == name) {
            Some(field) => Ok(field),
            None => self.fail(start, format!("`{}` is no field to filter by: {}", short(name), instead(name, &names))),
        }
    }

    fn op(&mut self, field: &Field) -> Result<Op, FilterError> {
        let allowed = any_of(field.kind.ops());
        let Some((text, op)) = OPS.iter().find(|(text, _)| self.rest().starts_with(text)) else {
            return self.fail(self.at, format!("after `{}` must follow {allowed}", field.name));
        };
        if !field.kind.ops().contains(text) {
            return self.fail(self.at, format!("`{text}` does not go with `{}`, but {allowed} does", field.name));
        }
        self.at += text.len();
        Ok(*op)
    }

    /// Reads the text of a value, without quotes. A number may be quoted, too.
    fn value(&mut self, field: &Field, op: Op) -> Result<String, FilterError> {
        let start = self.at;
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let text = self
                    .take_while(|c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '(' | ')' | ',' | '=' | '<' | '>'));
                if let Some(odd) = self.rest().chars().next().filter(|c| !c.is_whitespace()) {
                    return self.fail(self.at, format!("`{odd}` cannot stand in a value without quotes"));
                }
                match text {
                    "" | "AND" => {
                        self.fail(start, format!("a value must follow `{} {op}`; an empty text is \"\"", field.name))
                    }
                    "*" if op == Op::Contains => {
                        self.fail(start, "`:*` is not supported: compare with \"\" to ask whether a text is there")
                    }
                    _ => Ok(text.to_owned()),
                }
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.at;
        let mut text = String::new();
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                _ if character == quote => {
                    self.at += at + quote.len_utf8();
                    return match self.rest().chars().next() {
                        None => Ok(text),
                        Some(next) if next.is_whitespace() => Ok(text),
                        Some(_) => self.fail(self.at, "a space must follow the closing quote"),
                    };
                }
                _ => text.push(character),
            }
        }
        self.fail(start, format!("the closing `{quote}` is missing"))
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.')
}

impl Kind {
    /// Converts a text to a value. The error says what a valid value would be.
    fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Enum(values) => values
                .iter()
                .find(|value| **value == text)
                .map(|value| Value::Enum(value))
                .ok_or_else(|| format!("is not `{}`: {}", short(text), instead(text, values))),
            Self::Int => text.parse().map(Value::Int).map_err(|_| "must be a whole number such as `12`".to_owned()),
            Self::Money => Decimal::parse(text)
                .map(Value::Money)
                .ok_or_else(|| "must be an amount with at most nine decimals such as `5.00`".to_owned()),
            Self::Time => time(text)
                .map(Value::Time)
                .ok_or_else(|| "must be an RFC 3339 time such as `2026-01-31T12:00:00Z`, or a date".to_owned()),
        }
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    // Leap seconds are refused, because databases do not support them. chrono stores one as nanoseconds beyond a
    // second.
    if let Ok(time) = DateTime::parse_from_rfc3339(text)
        && time.timestamp_subsec_nanos() < 1_000_000_000
    {
        return Some(time.to_utc());
    }
    let date: NaiveDate = text.parse().ok()?;
    // A year of more than four digits has no RFC 3339 form, and not every database supports it.
    if text.len() != "2026-01-31".len() {
        return None;
    }
    Some(date.and_time(chrono::NaiveTime::MIN).and_utc())
}

#[cfg(test)]
mod tests;
