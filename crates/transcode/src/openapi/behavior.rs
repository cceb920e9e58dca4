//! `google.api.field_behavior`: which fields a client must send, and which it need not.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};

/// What the contract says of a field, beyond its type.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behavior {
    /// It must be sent, and not be empty.
    pub required: bool,
    /// The service gives it; one that is sent is not looked at.
    pub output_only: bool,
    /// It is sent, never answered.
    pub input_only: bool,
    /// It stays what it was first.
    pub immutable: bool,
}

impl Behavior {
    /// Reads the option.
    pub fn of(field: &FieldDescriptor) -> Self {
        let mut this = Self::default();
        let Some(extension) = field.parent_file().parent_pool().get_extension_by_name("google.api.field_behavior")
        else {
            return this;
        };
        let options = field.options();
        let behaviors = options.get_extension(&extension);
        // The numbers of google.api.FieldBehavior; an identifier is given by the service, too.
        for behavior in behaviors.as_list().unwrap_or_default() {
            match behavior {
                Value::EnumNumber(2) => this.required = true,
                Value::EnumNumber(3 | 8) => this.output_only = true,
                Value::EnumNumber(4) => this.input_only = true,
                Value::EnumNumber(5) => this.immutable = true,
                _ => {}
            }
        }
        this
    }

    /// Whether a client may change the field of a resource that is there.
    pub fn changeable(self) -> bool {
        !self.output_only && !self.immutable
    }
}

/// Whether messages of this type are resources, with names of their own.
pub fn is_resource(message: &MessageDescriptor) -> bool {
    let extension = message.parent_pool().get_extension_by_name("google.api.resource");
    extension.is_some_and(|extension| message.options().has_extension(&extension))
}

/// The resource that a request is about: the first field that holds one, or several of a kind.
pub fn resource_in(request: &MessageDescriptor) -> Option<MessageDescriptor> {
    request.fields().find_map(|field| match field.kind() {
        Kind::Message(message) if is_resource(&message) => Some(message),
        _ => None,
    })
}
