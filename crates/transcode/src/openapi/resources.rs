//! The contract's resources (`google.api.resource`) and the form of their names, for paths and examples.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use crate::rules::Rules;

/// A resource, such as an order.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// The singular of the resource's type, for example `order`.
    pub singular: String,
    /// The pattern of the last part of the resource's names, if a rule of the contract has one:
    /// `ord_[0-7][0-9a-hjkmnp-tv-z]{25}`.
    pub id: Option<String>,
}

/// The resources of a contract, by the first part of their names, for example `orders`.
#[derive(Debug, Default)]
pub struct Resources(BTreeMap<String, Resource>);

impl Resources {
    /// Reads the options of all messages, and finds patterns of names in the rules of all fields.
    pub fn of(pool: &DescriptorPool) -> Self {
        let mut found = BTreeMap::new();
        if let Some(extension) = pool.get_extension_by_name("google.api.resource") {
            for message in pool.all_messages() {
                let options = message.options();
                if let Value::Message(resource) = &*options.get_extension(&extension) {
                    let (plural, singular) = (text(resource, "plural"), text(resource, "singular"));
                    if !plural.is_empty() && !singular.is_empty() {
                        found.insert(plural, Resource { singular, id: None });
                    }
                }
            }
        }
        let mut this = Self(found);
        for field in pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>()) {
            if let Some(pattern) = Rules::of(&field).pattern() {
                this.learn(&pattern);
            }
        }
        this
    }

    /// Reads the pattern of ids from a pattern of names, such as `^orders/ord_[0-7][0-9a-hjkmnp-tv-z]{25}$`.
    fn learn(&mut self, pattern: &str) {
        let Some((plural, id)) = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')?.split_once('/'))
        else {
            return;
        };
        if let Some(resource) = self.0.get_mut(plural)
            && !id.contains(['/', '|'])
        {
            resource.id.get_or_insert_with(|| id.to_owned());
        }
    }

    /// The resource whose names begin with this plural.
    pub fn plural(&self, plural: &str) -> Option<&Resource> {
        self.0.get(plural)
    }

    /// A pattern for the whole name of a resource, found by its singular.
    pub fn name_pattern(&self, singular: &str) -> Option<String> {
        let (plural, resource) = self.0.iter().find(|(_, resource)| resource.singular == singular)?;
        Some(format!("^{plural}/{}$", resource.id.as_ref()?))
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
