//! Counts changes of the messages in cached responses. The count is part of a response's cache key.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prost_reflect::MessageDescriptor;
use souk_common::contract::{Contract, Method};

use super::caching;

/// The change counters of all methods whose responses may be cached, by method path.
pub(super) struct Changes(HashMap<String, Kept>);

struct Kept {
    method: Arc<Method>,
    /// Full names of the messages that the method's responses contain.
    shows: HashSet<String>,
    changes: AtomicU64,
}

impl Changes {
    pub(super) fn of(contract: &Contract) -> Self {
        let kept = contract.methods().filter(|method| caching(method).is_some()).map(|method| {
            let mut shows = HashSet::new();
            gather(&method.descriptor.output(), &mut shows);
            (method.path.clone(), Kept { method: method.clone(), shows, changes: AtomicU64::new(0) })
        });
        Self(kept.collect())
    }

    /// Number of changes of the messages that a method's responses contain.
    pub(super) fn of_method(&self, path: &str) -> u64 {
        self.0.get(path).map_or(0, |kept| kept.changes.load(Ordering::Acquire))
    }

    /// Counts a change in a service. Returns the affected methods.
    pub(super) fn at_service(&self, service: &str) -> Vec<&Arc<Method>> {
        self.count(|kept| &*kept.method.service == service)
    }

    /// Counts a change of a message. Returns the affected methods.
    pub(super) fn of_message(&self, package: &str, message: &str) -> Vec<&Arc<Method>> {
        self.count(|kept| of_package(&kept.method, package) && kept.shows.contains(message))
    }

    /// Counts a change in a whole package.
    pub(super) fn of_package(&self, package: &str) {
        self.count(|kept| of_package(&kept.method, package));
    }

    /// Full names of the messages that cached responses of a package contain.
    pub(super) fn shown(&self, package: &str) -> Vec<String> {
        let kept = self.0.values().filter(|kept| of_package(&kept.method, package));
        let names: BTreeSet<&String> = kept.flat_map(|kept| &kept.shows).collect();
        names.into_iter().cloned().collect()
    }

    fn count(&self, whether: impl Fn(&Kept) -> bool) -> Vec<&Arc<Method>> {
        let changed = self.0.values().filter(|kept| whether(kept));
        changed
            .map(|kept| {
                kept.changes.fetch_add(1, Ordering::Release);
                &kept.method
            })
            .collect()
    }
}

fn of_package(method: &Method, package: &str) -> bool {
    method.descriptor.parent_service().package_name() == package
}

/// Collects the message types that can occur in a message, including its own type. Types that are no resource do no
/// harm.
fn gather(message: &MessageDescriptor, names: &mut HashSet<String>) {
    if names.insert(message.full_name().to_owned()) {
        for field in message.fields() {
            if let Some(inner) = field.kind().as_message() {
                gather(inner, names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_affects_the_methods_that_show_it() {
        const GET: &str = "/souk.inventory.v1.ProductService/GetProduct";
        const LIST: &str = "/souk.inventory.v1.ProductService/ListProducts";
        let changes = Changes::of(Contract::souk().unwrap());
        let seen = || (changes.of_method(GET), changes.of_method(LIST));
        changes.of_message("souk.inventory.v1", "souk.inventory.v1.Product");
        assert_eq!(seen(), (1, 1));
        changes.of_message("souk.inventory.v1", "souk.inventory.v1.ListProductsResponse");
        assert_eq!(seen(), (1, 2));
        for (package, message) in [
            ("souk.inventory.v1", "souk.inventory.v1.StockLevel"),
            ("souk.order.v1", "souk.inventory.v1.Product"),
            ("souk.inventory", "souk.inventory.v1.Product"),
        ] {
            changes.of_message(package, message);
        }
        assert_eq!(seen(), (1, 2));
        changes.at_service("souk.inventory.v1.ProductService");
        changes.of_package("souk.inventory.v1");
        changes.at_service("souk.inventory.v1.StockService");
        changes.of_package("souk.order.v1");
        assert_eq!(seen(), (3, 4));
        assert!(changes.shown("souk.inventory.v1").contains(&"souk.inventory.v1.Product".to_owned()));
        assert!(changes.shown("souk.order.v1").is_empty());
    }
}
