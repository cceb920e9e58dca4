//! The events about products and stock.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use souk_common::ids::ProductId;
use souk_store::events::Draft;

use crate::{
    domain::{
        book::StockRow,
        product::Product,
        stock::{LowStock, StockLevel},
    },
    rpc::convert,
};

/// Something happened to a product: `product.created`, `product.updated` or `product.archived`.
pub(crate) fn product(kind: &'static str, product: &Product) -> Draft {
    let message = convert::product(product.clone());
    Draft::new(kind, message.name.clone(), &message, product.updated_at)
}

/// `stock.changed`: one event for each level, however many orders changed it together. Archived products have no
/// available stock.
pub(crate) fn stock<'a>(
    rows: impl Iterator<Item = &'a StockRow>,
    archived: &HashSet<ProductId>,
    now: DateTime<Utc>,
) -> Vec<Draft> {
    let draft = |row: &StockRow| {
        let message = convert::level(StockLevel {
            product: row.place.0,
            location: row.place.1,
            on_hand: row.level.on_hand,
            reserved: row.level.reserved,
            available: if archived.contains(&row.place.0) { 0 } else { row.level.available() },
            updated_at: now,
        });
        Draft::new("stock.changed", message.product.clone(), &message, now)
    };
    rows.map(draft).collect()
}

/// `stock.low`: a product has become low.
pub(crate) fn low(product: &Product, available: i64, now: DateTime<Utc>) -> Option<Draft> {
    let message = convert::low_stock(LowStock {
        product: product.id,
        sku: product.sku.clone(),
        title: product.title.clone(),
        available,
        threshold: product.low_stock_threshold?,
    });
    Some(Draft::new("stock.low", message.product.clone(), &message, now))
}
