//! `google.api.field_behavior`: the fields that a client must send, and those that it need not send.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};

/// The contract's options of a field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behavior {
    /// The field must be sent and must not be empty.
    pub required: bool,
    /// The service sets the field, and ignores it in requests.
    pub output_only: bool,
    /// The field occurs only in requests, never in responses.
    pub input_only: bool,
    /// The field cannot be changed after its resource was created.
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
        // The numbers of google.api.FieldBehavior. The service sets identifiers, too.
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

    /// True if a client may change the field of an existing resource.
    pub fn changeable(self) -> bool {
        !self.output_only && !self.immutable
    }
}

/// True if messages of this type are resources with names.
pub fn is_resource(message: &MessageDescriptor) -> bool {
    let extension = message.parent_pool().get_extension_by_name("google.api.resource");
    extension.is_some_and(|extension| message.options().has_extension(&extension))
}

/// The resource of a request: the type of the first field that holds one resource, or a list of them.
pub fn resource_in(request: &MessageDescriptor) -> Option<MessageDescriptor> {
    request.fields().find_map(|field| match field.kind() {
        Kind::Message(message) if is_resource(&message) => Some(message),
        _ => None,
    })
}
