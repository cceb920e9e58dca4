//! Dotted field paths of a contract, resolved once, and setting what they lead to.

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

/// A path such as `user.name`, from a message down to a field; never empty.
#[derive(Debug, Clone)]
pub struct FieldPath {
    /// As written in the contract.
    pub text: String,
    parents: Vec<FieldDescriptor>,
    last: FieldDescriptor,
}

/// A path that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldPathError {
    /// No field has this name.
    #[error("{message} has no field `{name}`")]
    Missing {
        /// Full name of the message.
        message: String,
        /// The name.
        name: String,
    },
    /// A field on the way is no single message.
    #[error("`{name}` of {message} is not a message, or is repeated: no path leads through it")]
    NoWay {
        /// Full name of the message.
        message: String,
        /// The name.
        name: String,
    },
}

impl FieldPath {
    /// Follows names of the contract (`page_size`) or of JSON (`pageSize`).
    ///
    /// # Errors
    /// The first name that leads nowhere.
    pub fn resolve(message: &MessageDescriptor, path: &str) -> Result<Self, FieldPathError> {
        let mut parents = Vec::new();
        let mut current = message.clone();
        let mut text = String::new();
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let field =
                current.get_field_by_name(name).or_else(|| current.get_field_by_json_name(name)).ok_or_else(|| {
                    FieldPathError::Missing { message: current.full_name().to_owned(), name: name.to_owned() }
                })?;
            text.push_str(field.name());
            if names.peek().is_none() {
                return Ok(Self { text, parents, last: field });
            }
            text.push('.');
            let kind = field.kind();
            match kind.as_message() {
                Some(next) if !field.is_list() && !field.is_map() => current = next.clone(),
                _ => {
                    return Err(FieldPathError::NoWay {
                        message: current.full_name().to_owned(),
                        name: name.to_owned(),
                    });
                }
            }
            parents.push(field);
        }
        // `split` gives one name at least.
        Err(FieldPathError::Missing { message: current.full_name().to_owned(), name: String::new() })
    }

    /// The field itself.
    pub fn field(&self) -> &FieldDescriptor {
        &self.last
    }

    /// How many messages lie on the way.
    pub fn depth(&self) -> usize {
        self.parents.len()
    }

    /// Whether this is the other path, or leads through it.
    pub fn is_within(&self, other: &str) -> bool {
        self.text.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The value that stands there, where it is set.
    pub fn get(&self, message: &DynamicMessage) -> Option<Value> {
        get(message, &self.parents, &self.last)
    }

    /// The message that holds the field; those on the way are made where they are not there.
    pub fn holder<'m>(&self, message: &'m mut DynamicMessage) -> Option<&'m mut DynamicMessage> {
        let mut current = message;
        for parent in &self.parents {
            current = current.get_field_mut(parent).as_message_mut()?;
        }
        Some(current)
    }
}

fn get(message: &DynamicMessage, parents: &[FieldDescriptor], last: &FieldDescriptor) -> Option<Value> {
    let Some((parent, rest)) = parents.split_first() else {
        return message.has_field(last).then(|| message.get_field(last).into_owned());
    };
    if !message.has_field(parent) {
        return None;
    }
    get(message.get_field(parent).as_message()?, rest, last)
}
