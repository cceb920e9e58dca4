//! The rules of a single value by its kind, and the reader of each kind's rules.
use std::fmt::Display;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, Value};

use super::{
    Fault, Path, Report, Unsupported,
    numbers::{self, NumberTest},
    strings::{self, BytesTest, StringTest},
    time::{self, TimeTest},
};

/// A test of a value.
pub(super) trait Test<V> {
    fn admits(&self, value: V) -> bool;
}

/// A test, and the fault if it fails.
#[derive(Debug)]
pub(super) struct Rule<T> {
    pub test: T,
    pub fault: Fault,
}

/// The rules of a value of one kind.
#[derive(Debug, Default)]
pub(super) enum Rules {
    #[default]
    None,
    Bool(Vec<Rule<bool>>),
    Signed(Vec<Rule<NumberTest<i64>>>),
    Unsigned(Vec<Rule<NumberTest<u64>>>),
    Float(Vec<Rule<NumberTest<f64>>>),
    Text(Vec<Rule<StringTest>>),
    Bytes(Vec<Rule<BytesTest>>),
    Enum(Vec<Rule<EnumTest>>),
    /// Durations, in nanoseconds.
    Duration(Vec<Rule<NumberTest<i128>>>),
    /// Timestamps, in nanoseconds since 1970.
    Timestamp(Vec<Rule<TimeTest>>),
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Bool(rules) => rules.is_empty(),
            Self::Signed(rules) => rules.is_empty(),
            Self::Unsigned(rules) => rules.is_empty(),
            Self::Float(rules) => rules.is_empty(),
            Self::Text(rules) => rules.is_empty(),
            Self::Bytes(rules) => rules.is_empty(),
            Self::Enum(rules) => rules.is_empty(),
            Self::Duration(rules) => rules.is_empty(),
            Self::Timestamp(rules) => rules.is_empty(),
        }
    }

    pub fn check(&self, value: &Value, path: &Path<'_>, report: &mut Report) {
        match (self, value) {
            (Self::Bool(rules), Value::Bool(value)) => each(rules, *value, path, report),
            (Self::Signed(rules), Value::I32(value)) => each(rules, i64::from(*value), path, report),
            (Self::Signed(rules), Value::I64(value)) => each(rules, *value, path, report),
            (Self::Unsigned(rules), Value::U32(value)) => each(rules, u64::from(*value), path, report),
            (Self::Unsigned(rules), Value::U64(value)) => each(rules, *value, path, report),
            (Self::Float(rules), Value::F32(value)) => each(rules, f64::from(*value), path, report),
            (Self::Float(rules), Value::F64(value)) => each(rules, *value, path, report),
            (Self::Text(rules), Value::String(value)) => each(rules, value.as_str(), path, report),
            (Self::Bytes(rules), Value::Bytes(value)) => each(rules, &value[..], path, report),
            (Self::Enum(rules), Value::EnumNumber(value)) => each(rules, *value, path, report),
            (Self::Duration(rules), Value::Message(value)) => {
                each(rules, time::nanoseconds(value), path, report);
            }
            (Self::Timestamp(rules), Value::Message(value)) => {
                each(rules, time::nanoseconds(value), path, report);
            }
            // Rules are compiled for the kind of their field, so no other combination occurs.
            _ => {}
        }
    }
}

fn each<V: Copy, T: Test<V>>(rules: &[Rule<T>], value: V, path: &Path<'_>, report: &mut Report) {
    for rule in rules {
        if !rule.test.admits(value) {
            report.add(path, &rule.fault);
        }
    }
}

impl Test<bool> for bool {
    fn admits(&self, value: bool) -> bool {
        *self == value
    }
}

/// The test of an enum, by number.
#[derive(Debug)]
pub(super) enum EnumTest {
    In(Vec<i32>),
    NotIn(Vec<i32>),
}

impl Test<i32> for EnumTest {
    fn admits(&self, value: i32) -> bool {
        match self {
            Self::In(allowed) => allowed.contains(&value),
            Self::NotIn(denied) => !denied.contains(&value),
        }
    }
}

/// The rules of one kind as the contract has them, for example `string {min_len: 1}`, and where they are.
pub(super) struct Source<'a> {
    /// The field with the rules, for errors.
    pub field: &'a FieldDescriptor,
    /// The kind's name, which begins the ids of its rules: `string`.
    pub kind: &'a str,
    pub rules: &'a DynamicMessage,
}

impl Source<'_> {
    pub fn fault(&self, rule: &str, message: impl Into<String>) -> Fault {
        Fault { rule_id: format!("{}.{rule}", self.kind), message: message.into() }
    }

    pub fn rule<T>(&self, rule: &str, test: T, message: impl Into<String>) -> Rule<T> {
        Rule { test, fault: self.fault(rule, message) }
    }

    /// The error of a rule that is not supported as written.
    pub fn unsupported(&self, rule: &str, why: impl Into<String>) -> Unsupported {
        unsupported(self.field, &format!("{}.{rule}", self.kind), why)
    }

    /// The error of a rule that this validator does not know.
    pub fn unknown(&self, rule: &str) -> Unsupported {
        self.unsupported(rule, "souk's validator does not implement it")
    }

    /// Refuses rules that are extensions, or that validate.proto does not define.
    fn refuse_extensions(&self) -> Result<(), Unsupported> {
        if let Some((extension, _)) = self.rules.extensions().next() {
            return Err(self.unknown(&format!("({})", extension.full_name())));
        }
        match self.rules.unknown_fields().next() {
            Some(field) => Err(self.unknown(&field.number().to_string())),
            None => Ok(()),
        }
    }
}

/// An error about a rule of a field.
pub(super) fn unsupported(field: &FieldDescriptor, rule: &str, why: impl Into<String>) -> Unsupported {
    Unsupported {
        file: field.parent_file().name().to_owned(),
        element: field.full_name().to_owned(),
        rule: rule.to_owned(),
        why: why.into(),
    }
}

/// Reads the rules of a value of `kind`. The name of the rules in `FieldRules` (`string`) must fit the kind.
pub(super) fn read(source: &Source<'_>, kind: &Kind) -> Result<Rules, Unsupported> {
    source.refuse_extensions()?;
    Ok(match (source.kind, kind) {
        ("bool", Kind::Bool) => Rules::Bool(read_bool(source)?),
        ("string", Kind::String) => Rules::Text(strings::read(source)?),
        ("bytes", Kind::Bytes) => Rules::Bytes(strings::read_bytes(source)?),
        ("enum", Kind::Enum(of)) => Rules::Enum(read_enum(source, of)?),
        ("int32", Kind::Int32)
        | ("int64", Kind::Int64)
        | ("sint32", Kind::Sint32)
        | ("sint64", Kind::Sint64)
        | ("sfixed32", Kind::Sfixed32)
        | ("sfixed64", Kind::Sfixed64) => Rules::Signed(numbers::read(source, |n: i64| n.to_string())?),
        ("uint32", Kind::Uint32)
        | ("uint64", Kind::Uint64)
        | ("fixed32", Kind::Fixed32)
        | ("fixed64", Kind::Fixed64) => Rules::Unsigned(numbers::read(source, |n: u64| n.to_string())?),
        // Formatted as in the contract: 0.1, not 0.10000000149011612.
        #[allow(clippy::cast_possible_truncation)]
        ("float", Kind::Float) => Rules::Float(numbers::read(source, |n: f64| (n as f32).to_string())?),
        ("double", Kind::Double) => Rules::Float(numbers::read(source, |n: f64| n.to_string())?),
        ("duration", Kind::Message(of)) if of.full_name() == "google.protobuf.Duration" => {
            Rules::Duration(numbers::read(source, time::show_duration)?)
        }
        ("timestamp", Kind::Message(of)) if of.full_name() == "google.protobuf.Timestamp" => {
            Rules::Timestamp(time::read(source)?)
        }
        ("field_mask" | "any", _) => return Err(source.unknown("*")),
        (_, kind) => {
            return Err(source.unsupported("*", format!("does not fit a value of type {kind:?}")));
        }
    })
}

fn read_bool(source: &Source<'_>) -> Result<Vec<Rule<bool>>, Unsupported> {
    let mut rules = Vec::new();
    for (field, value) in source.rules.fields() {
        match (field.name(), value) {
            ("const", Value::Bool(value)) => {
                rules.push(source.rule("const", *value, format!("must be {value}")));
            }
            ("example", _) => {}
            (other, _) => return Err(source.unknown(other)),
        }
    }
    Ok(rules)
}

fn read_enum(source: &Source<'_>, of: &EnumDescriptor) -> Result<Vec<Rule<EnumTest>>, Unsupported> {
    // If there are more values, the type's name is more helpful than the list.
    const LISTED: usize = 24;
    let name = |number: i32| match of.get_value(number) {
        Some(value) => value.name().to_owned(),
        None => number.to_string(),
    };
    let named = |numbers: &[i32]| one_of(numbers.iter().map(|number| name(*number)));
    let mut rules = Vec::new();
    let mut defined_only = false;
    let mut denied = Vec::new();
    for (field, value) in source.rules.fields() {
        match (field.name(), value) {
            ("const", Value::I32(number)) => {
                let message = format!("must be {}", name(*number));
                rules.push(source.rule("const", EnumTest::In(vec![*number]), message));
            }
            ("defined_only", Value::Bool(value)) => defined_only = *value,
            ("in", Value::List(values)) => {
                let allowed: Vec<_> = values.iter().filter_map(Value::as_i32).collect();
                let message = format!("must be {}", named(&allowed));
                rules.push(source.rule("in", EnumTest::In(allowed), message));
            }
            ("not_in", Value::List(values)) => {
                denied.extend(values.iter().filter_map(Value::as_i32));
                let message = format!("must not be {}", named(&denied));
                rules.push(source.rule("not_in", EnumTest::NotIn(denied.clone()), message));
            }
            ("example", _) => {}
            (other, _) => return Err(source.unknown(other)),
        }
    }
    if defined_only {
        let numbers: Vec<_> = of.values().map(|value| value.number()).collect();
        let wanted: Vec<_> = numbers.iter().copied().filter(|number| !denied.contains(number)).collect();
        let message = if wanted.len() <= LISTED {
            format!("must be {}", named(&wanted))
        } else {
            format!("must be a value of {}", of.full_name())
        };
        rules.push(source.rule("defined_only", EnumTest::In(numbers), message));
    }
    Ok(rules)
}

/// The strings of a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    let values = value.as_list().unwrap_or_default();
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A choice in words: "one of A, B", or just "A".
pub(super) fn one_of<T: Display>(choices: impl IntoIterator<Item = T>) -> String {
    let choices: Vec<_> = choices.into_iter().map(|choice| choice.to_string()).collect();
    match choices.as_slice() {
        [only] => only.clone(),
        _ => format!("one of {}", choices.join(", ")),
    }
}
