//! Products for tests, and idempotency keys for requests.

use std::sync::atomic::{AtomicU64, Ordering};

use souk_proto::{
    google::r#type::Money,
    inventory::v1::{Product, product::StockTracking},
};

/// An amount in pounds sterling.
pub fn gbp(units: i64, nanos: i32) -> Money {
    Money { currency_code: "GBP".to_owned(), units, nanos }
}

/// A valid product for a create request, at 2.50 GBP.
pub fn draft(sku: &str) -> Product {
    Product {
        sku: sku.to_owned(),
        title: format!("Title of {sku}"),
        price: Some(gbp(2, 500_000_000)),
        ..Product::default()
    }
}

/// A product without stock tracking, such as postage.
pub fn untracked(sku: &str) -> Product {
    Product { stock_tracking: StockTracking::Untracked.into(), ..draft(sku) }
}

/// An idempotency key that no other request has.
pub fn key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
