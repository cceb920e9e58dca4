//! The events about orders.

use souk_store::events::Draft;

use crate::{
    domain::{Entry, Kind, Order},
    reply,
};

/// The events that go with entries of an order's timeline. Each shows the order as it is after all of them.
pub(crate) fn drafts(order: &Order, entries: &[Entry]) -> Vec<Draft> {
    let kinds: Vec<&'static str> = entries.iter().filter_map(|entry| event(entry.kind)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let message = reply::order(order);
    let draft = |kind| Draft::new(kind, message.name.clone(), &message, order.update_time).owned_by(order.customer);
    kinds.into_iter().map(draft).collect()
}

/// The type of the event; `None` for internal steps.
pub(crate) const fn event(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Placed => Some("order.placed"),
        Kind::Confirmed => Some("order.confirmed"),
        Kind::Rejected => Some("order.rejected"),
        Kind::CancelRequested => Some("order.cancelling"),
        Kind::Cancelled => Some("order.cancelled"),
        Kind::ReturnRequested => Some("order.return_requested"),
        Kind::ReturnCompleted => Some("order.returned"),
        Kind::Shipped => Some("order.shipped"),
        Kind::ItemsCancelRequested => Some("order.items_cancelling"),
        Kind::ItemsCancelled => Some("order.items_cancelled"),
        Kind::RefundRequested => Some("order.refund_requested"),
        Kind::RefundCompleted => Some("order.refunded"),
        Kind::StockReserved
        | Kind::PaymentAuthorized
        | Kind::StockCommitted
        | Kind::PaymentCaptured
        | Kind::StockReleased
        | Kind::PaymentVoided
        | Kind::StockReturned
        | Kind::PaymentRefunded
        | Kind::Note
        | Kind::RetryRequested
        | Kind::Abandoned
        | Kind::FinishedManually => None,
    }
}
