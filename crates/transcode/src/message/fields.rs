//! Field paths of a contract, resolved once, and access to the fields that they lead to.

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

/// A path such as `user.name`, from a message to a field. Never empty.
#[derive(Debug, Clone)]
pub struct FieldPath {
    /// The path, as written in the contract.
    pub text: String,
    parents: Vec<FieldDescriptor>,
    last: FieldDescriptor,
}

/// Why a path cannot be resolved.
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
    /// A field before the last one is not a single message.
    #[error("`{name}` of {message} is not a message, or is repeated: no path leads through it")]
    NoWay {
        /// Full name of the message.
        message: String,
        /// The name.
        name: String,
    },
}

impl FieldPath {
    /// Resolves a path. Its names may be those of the contract (`page_size`) or of JSON (`pageSize`).
    ///
    /// # Errors
    /// The first name that cannot be resolved.
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
        // `split` returns at least one name.
        Err(FieldPathError::Missing { message: current.full_name().to_owned(), name: String::new() })
    }

    /// The field at the end of the path.
    pub fn field(&self) -> &FieldDescriptor {
        &self.last
    }

    /// The number of messages between the start and the field.
    pub fn depth(&self) -> usize {
        self.parents.len()
    }

    /// True if this path is the other one, or leads through it.
    pub fn is_within(&self, other: &str) -> bool {
        self.text.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The value of the field, if it is set.
    pub fn get(&self, message: &DynamicMessage) -> Option<Value> {
        get(message, &self.parents, &self.last)
    }

    /// The message that contains the field. Missing messages on the path are created.
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
