//! Names in the document: short names if they are unique in the contract, otherwise full names.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use crate::routes::Routes;

/// The names of messages, enums and services, and the messages that responses contain.
pub struct Names {
    short: HashMap<String, String>,
    answered: HashSet<String>,
}

impl Names {
    /// Names everything in the pool. No message gets a name in `taken`.
    pub fn of<M>(pool: &DescriptorPool, routes: &Routes<M>, taken: impl Iterator<Item = String>) -> Self {
        let messages = pool.all_messages().map(|message| (message.full_name().to_owned(), message.parent_file()));
        let enums = pool.all_enums().map(|of| (of.full_name().to_owned(), of.parent_file()));
        let services = pool.services().map(|service| (service.full_name().to_owned(), service.parent_file()));
        let mut by_short: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in taken {
            by_short.insert(name, vec![String::new()]);
        }
        for (full, file) in messages.chain(enums).chain(services) {
            let short = full.strip_prefix(file.package_name()).unwrap_or(&full).trim_start_matches('.').to_owned();
            by_short.entry(short).or_default().push(full);
        }
        let mut names = HashMap::new();
        for (short, fulls) in by_short {
            let unique = fulls.len() == 1;
            names.extend(fulls.into_iter().map(|full| (full.clone(), if unique { short.clone() } else { full })));
        }
        let mut answered = HashSet::new();
        for route in routes.iter() {
            reach(&route.descriptor.output(), &mut answered);
        }
        Self { short: names, answered }
    }

    /// The name of a message, enum or service.
    pub fn name(&self, full: &str) -> String {
        self.short.get(full).cloned().unwrap_or_else(|| full.to_owned())
    }

    /// The name of a message in requests. If responses contain it too, the name differs from theirs, because the
    /// schemas differ.
    pub fn sent(&self, full: &str) -> String {
        let name = self.name(full);
        if self.answered.contains(full) { name + "Input" } else { name }
    }
}

/// Collects a message and all messages inside it.
fn reach(message: &MessageDescriptor, into: &mut HashSet<String>) {
    if into.insert(message.full_name().to_owned()) {
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind() {
                reach(&inner, into);
            }
        }
    }
}
