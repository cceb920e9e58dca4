//! The events about products and stock. Responses share their messages.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use souk_common::ids::ProductId;
use souk_proto::inventory::v1::{
    Product as ProductMessage, StockLevel as StockLevelMessage,
    list_low_stock_response::LowStock as LowStockMessage,
    product::{State as StateMessage, StockTracking},
};
use souk_store::events::Draft;

use crate::domain::{
    book::StockRow,
    product::{Product, State, Tracking},
    stock::{LowStock, StockLevel},
};

/// The event of a change of a product: `product.created`, `product.updated` or `product.archived`.
pub(crate) fn product(kind: &'static str, product: &Product) -> Draft {
    let message = product_message(product.clone());
    Draft::new(kind, message.name.clone(), &message, product.updated_at)
}

/// `stock.changed`: one event for each changed level, even if several orders changed it together. Archived products
/// have no available stock.
pub(crate) fn stock<'a>(
    rows: impl Iterator<Item = &'a StockRow>,
    archived: &HashSet<ProductId>,
    now: DateTime<Utc>,
) -> Vec<Draft> {
    let draft = |row: &StockRow| {
        let message = level_message(row.shown(archived.contains(&row.place.0), now));
        Draft::new("stock.changed", message.product.clone(), &message, now)
    };
    rows.map(draft).collect()
}

/// `stock.low`: a product has become low.
pub(crate) fn low(product: &Product, available: i64, now: DateTime<Utc>) -> Option<Draft> {
    let message = low_stock_message(LowStock {
        product: product.id,
        sku: product.sku.clone(),
        title: product.title.clone(),
        available,
        threshold: product.low_stock_threshold?,
    });
    Some(Draft::new("stock.low", message.product.clone(), &message, now))
}

/// The message of a product, for events and responses.
pub(crate) fn product_message(product: Product) -> ProductMessage {
    ProductMessage {
        name: product.id.name(),
        etag: product.etag(),
        sku: product.sku,
        low_stock_threshold: product.low_stock_threshold,
        title: product.title,
        description: product.description,
        price: Some(product.price.into()),
        stock_tracking: match product.tracking {
            Tracking::Tracked => StockTracking::Tracked,
            Tracking::Untracked => StockTracking::Untracked,
        }
        .into(),
        state: match product.state {
            State::Active => StateMessage::Active,
            State::Archived => StateMessage::Archived,
        }
        .into(),
        create_time: Some(timestamp(product.created_at)),
        update_time: Some(timestamp(product.updated_at)),
    }
}

/// The message of a stock level, for events and responses.
pub(crate) fn level_message(level: StockLevel) -> StockLevelMessage {
    StockLevelMessage {
        product: level.product.name(),
        location: level.location.name(),
        on_hand: level.on_hand,
        reserved: level.reserved,
        available: level.available,
        update_time: Some(timestamp(level.updated_at)),
    }
}

/// The message of a product that is low, for events and responses.
pub(crate) fn low_stock_message(low: LowStock) -> LowStockMessage {
    LowStockMessage {
        product: low.product.name(),
        sku: low.sku,
        title: low.title,
        available: low.available,
        low_stock_threshold: low.threshold,
    }
}

/// Converts a time to the contract's type.
pub(crate) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    // The nanoseconds of a second are below 10^9, so they fit.
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: time.timestamp(), nanos }
}
