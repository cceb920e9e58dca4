//! Requests to the service.

use souk_common::ids::OrderId;
use souk_proto::inventory::v1::{
    AdjustStockRequest, CountStockRequest, ReservationItem, ReserveRequest, ReturnReservationRequest,
    TransferStockRequest, adjust_stock_request::Item, count_stock_request, ledger_entry::Reason as LedgerReason,
    transfer_stock_request,
};

/// The resource name of a new order.
pub fn order() -> String {
    OrderId::new().name()
}

fn items(items: &[(&str, i64)]) -> Vec<ReservationItem> {
    let item = |&(product, quantity): &(&str, i64)| ReservationItem { product: product.to_owned(), quantity };
    items.iter().map(item).collect()
}

pub fn reserve(order: &str, wanted: &[(&str, i64)], ttl_seconds: i64) -> ReserveRequest {
    let ttl = prost_types::Duration { seconds: ttl_seconds, nanos: 0 };
    ReserveRequest { order: order.to_owned(), items: items(wanted), ttl: Some(ttl) }
}

pub fn give_back(order: &str, key: &str, back: &[(&str, i64)]) -> ReturnReservationRequest {
    ReturnReservationRequest { order: order.to_owned(), request_id: key.to_owned(), items: items(back) }
}

pub fn item(product: &str, location: &str, quantity: i64) -> Item {
    Item { product: product.to_owned(), location: location.to_owned(), quantity }
}

pub fn transfer(key: &str, product: &str, (source, destination): (&str, &str), quantity: i64) -> TransferStockRequest {
    TransferStockRequest {
        request_id: key.to_owned(),
        source: source.to_owned(),
        destination: destination.to_owned(),
        items: vec![transfer_stock_request::Item { product: product.to_owned(), quantity }],
        ..TransferStockRequest::default()
    }
}

/// A request with a count of each product at a location.
pub fn count(key: &str, counted: &[(&str, &str, i64)]) -> CountStockRequest {
    let item = |&(product, location, counted_quantity): &(&str, &str, i64)| count_stock_request::Item {
        product: product.to_owned(),
        location: location.to_owned(),
        counted_quantity,
        expected_on_hand: None,
    };
    let items = counted.iter().map(item).collect();
    CountStockRequest { request_id: key.to_owned(), items, ..CountStockRequest::default() }
}

pub fn adjustment(key: &str, product: &str, location: &str, quantity: i64) -> AdjustStockRequest {
    adjustments(key, vec![item(product, location, quantity)])
}

pub fn adjustments(key: &str, items: Vec<Item>) -> AdjustStockRequest {
    AdjustStockRequest {
        request_id: key.to_owned(),
        items,
        reason: LedgerReason::Receipt.into(),
        reference: "delivery 7".to_owned(),
        note: String::new(),
    }
}
