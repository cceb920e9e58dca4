//! Checks messages by the `buf.validate` rules of their contract, which are compiled once from the descriptors.
//!
//! This is a subset of [protovalidate](https://protovalidate.com) without CEL. A rule that is not supported is an error
//! when the [`Validator`] is created, so a contract cannot promise a check that does not happen. The rules have the
//! meaning that protovalidate defines; the messages are souk's own, in plain words.
//!
//! One rule needs no option: every text is checked for invalid characters, see [`Text`].

mod compile;
mod email;
mod messages;
mod numbers;
mod plan;
mod rules;
mod strings;
#[cfg(test)]
mod tests;
mod text;
mod time;

use std::{collections::HashMap, fmt};

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage};

pub use self::text::Text;
use crate::shorten;

/// The most violations that are reported for one message. A client with more of them will try again anyway, and a
/// request with a thousand wrong lines must not cause a response many times its size.
pub const MAX_VIOLATIONS: usize = 100;

/// A violation of a rule by a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path in the names of the contract: `items[0].quantity`, `labels["a"]`. A oneof's name if none of its
    /// fields is set; empty for the whole message.
    pub field_path: String,
    /// The rule, by protovalidate's name: `int64.gte`, `required`; `souk.text` for [`Text`].
    pub rule_id: String,
    /// What would be valid, as the rest of a sentence that begins with the field: "must be at least 1".
    pub message: String,
}

/// A rule in a contract that is not supported.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {element}: rule {rule}: {why}")]
pub struct Unsupported {
    /// The `.proto` file.
    pub file: String,
    /// The full name of the field, oneof or message that has the rule.
    pub element: String,
    /// The rule: `string.pattern`.
    pub rule: String,
    /// Why the rule is not supported.
    pub why: String,
}

/// The compiled rules of all messages of a contract. Create one and share it.
#[derive(Debug)]
pub struct Validator {
    /// The index of each message's plan in `plans`, by full name.
    messages: HashMap<String, usize>,
    plans: Vec<plan::Plan>,
    /// True if texts without rules are checked, too.
    texts: bool,
}

impl Validator {
    /// Compiles the rules of the messages in package `souk` and its subpackages, and of every message inside them.
    ///
    /// # Errors
    /// The first rule that is unknown, does not fit its field, or does not compile.
    pub fn new(pool: &DescriptorPool) -> Result<Self, Unsupported> {
        let (messages, plans) = messages::compile(pool)?;
        Ok(Self { messages, plans, texts: true })
    }

    /// Compiles the rules of every message that a service of the pool takes. For contracts of others, whose servers
    /// check requests themselves. If a field, oneof or message has a rule that is not supported, none of its own rules
    /// are checked; the unsupported rules are returned, so that the caller can log them. Texts may have all characters.
    pub fn lenient(pool: &DescriptorPool) -> (Self, Vec<Unsupported>) {
        let (messages, plans, left_out) = messages::compile_leniently(pool);
        (Self { messages, plans, texts: false }, left_out)
    }

    /// The kind of text in a field, if texts are checked: see [`Text::of`].
    pub fn text(&self, field: &FieldDescriptor) -> Option<Text> {
        Text::of(field).filter(|_| self.texts)
    }

    /// Checks a message and all messages inside it. A message of a type that is not in the contract has no rules.
    ///
    /// # Errors
    /// All violated rules, in the order of the fields' declaration, at most [`MAX_VIOLATIONS`].
    pub fn check(&self, message: &DynamicMessage) -> Result<(), Vec<Violation>> {
        let Some(&plan) = self.messages.get(message.descriptor().full_name()) else {
            return Ok(());
        };
        let mut report = Report::default();
        plan::Check { plans: &self.plans, report: &mut report }.message(plan, message, &Path::Root);
        if report.violations.is_empty() { Ok(()) } else { Err(report.violations) }
    }

    /// True if a message of this type can have violations, itself or in a message inside it.
    pub fn has_rules(&self, message: &MessageDescriptor) -> bool {
        self.messages.get(message.full_name()).is_some_and(|&plan| !self.plans[plan].is_empty())
    }
}

/// The id and message of a violated rule, created once when the rule is compiled.
#[derive(Debug, Clone)]
struct Fault {
    rule_id: String,
    message: String,
}

/// The violations found so far.
#[derive(Debug, Default)]
struct Report {
    violations: Vec<Violation>,
}

impl Report {
    fn add(&mut self, path: &Path<'_>, fault: &Fault) {
        self.tell(path, &fault.rule_id, &fault.message);
    }

    fn tell(&mut self, path: &Path<'_>, rule_id: &str, message: &str) {
        if !self.is_full() {
            self.violations.push(Violation {
                field_path: path.to_string(),
                rule_id: rule_id.to_owned(),
                message: message.to_owned(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.violations.len() >= MAX_VIOLATIONS
    }
}

/// The most bytes of a map key in the path of a violation.
const KEY_BYTES: usize = 64;

/// The current place of a check in the message. It is on the stack, so that a valid message allocates no text.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a MapKey),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, MapKey::Bool(key)) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, MapKey::I32(key)) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, MapKey::I64(key)) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, MapKey::U32(key)) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, MapKey::U64(key)) => write!(f, "{parent}[{key}]"),
            Self::Key(parent, MapKey::String(key)) => write!(f, "{parent}[{:?}]", shorten(key, KEY_BYTES)),
        }
    }
}
