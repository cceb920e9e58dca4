//! Checks messages against the `buf.validate` rules of their contract, compiled once from the descriptors.
//!
//! This is a subset of [protovalidate](https://protovalidate.com) without CEL: every rule it does not know is an
//! error when the [`Validator`] is made, so that a contract cannot promise a check that does not happen. The rules
//! mean what protovalidate says they mean; the messages are our own, in plain words.
//!
//! One rule needs no option: every text is checked for characters that have no place in it, see [`Text`].

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

/// The most violations of one message that are reported. A client with more will try again anyway, and a request with a
/// thousand bad lines must not cause a response many times its size.
pub const MAX_VIOLATIONS: usize = 100;

/// A rule that a message breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field in the names of the contract: `items[0].quantity`, `labels["a"]`; a oneof's name where none of its
    /// fields is set; empty for the whole message.
    pub field_path: String,
    /// The rule, by protovalidate's name: `int64.gte`, `required`; `souk.text` for [`Text`].
    pub rule_id: String,
    /// What would be valid, as the rest of a sentence that begins with the field: "must be at least 1".
    pub message: String,
}

/// A rule in a contract that cannot be checked as written.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {element}: rule {rule}: {why}")]
pub struct Unsupported {
    /// The `.proto` file.
    pub file: String,
    /// The full name of the field, oneof or message that has the rule.
    pub element: String,
    /// The rule: `string.pattern`.
    pub rule: String,
    /// What is the matter with it.
    pub why: String,
}

/// The rules of all messages of a contract, ready to check. Make one and share it.
#[derive(Debug)]
pub struct Validator {
    /// By full name, where the plan is in `plans`.
    messages: HashMap<String, usize>,
    plans: Vec<plan::Plan>,
    /// Whether texts are checked without being asked to.
    texts: bool,
}

impl Validator {
    /// Compiles the rules of the messages in package `souk` and below, and of every message they use.
    ///
    /// # Errors
    /// The first rule that is unknown here, does not fit its field, or does not compile.
    pub fn new(pool: &DescriptorPool) -> Result<Self, Unsupported> {
        let (messages, plans) = messages::compile(pool)?;
        Ok(Self { messages, plans, texts: true })
    }

    /// Compiles the rules of every message that a service of the pool takes, for contracts of others, whose servers
    /// check requests themselves. A field, oneof or message with a rule that cannot be checked here is not checked by any
    /// of its own; these come back, to be logged. Texts may have all characters.
    pub fn lenient(pool: &DescriptorPool) -> (Self, Vec<Unsupported>) {
        let (messages, plans, left_out) = messages::compile_leniently(pool);
        (Self { messages, plans, texts: false }, left_out)
    }

    /// What kind of text a field holds, where texts are checked: see [`Text::of`].
    pub fn text(&self, field: &FieldDescriptor) -> Option<Text> {
        Text::of(field).filter(|_| self.texts)
    }

    /// Checks a message and all messages in it. A message of a type that is not in the contracts has no rules.
    ///
    /// # Errors
    /// Every rule that is broken, in the order of the fields' declaration, at most [`MAX_VIOLATIONS`].
    pub fn check(&self, message: &DynamicMessage) -> Result<(), Vec<Violation>> {
        let Some(&plan) = self.messages.get(message.descriptor().full_name()) else {
            return Ok(());
        };
        let mut report = Report::default();
        plan::Check { plans: &self.plans, report: &mut report }.message(plan, message, &Path::Root);
        if report.violations.is_empty() { Ok(()) } else { Err(report.violations) }
    }

    /// Whether anything can be wrong with a message of this type, itself or in a message within it.
    pub fn has_rules(&self, message: &MessageDescriptor) -> bool {
        self.messages.get(message.full_name()).is_some_and(|&plan| !self.plans[plan].is_empty())
    }
}

/// What to say where a rule is broken: made once, when the rule is compiled.
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

/// The most bytes of a map's key in the path of a violation.
const KEY_BYTES: usize = 64;

/// Where a check is in the message. Lives on the stack, so that a valid message costs no text.
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
