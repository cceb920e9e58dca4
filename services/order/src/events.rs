//! The events about orders, and the order message, which events and responses share.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use souk_proto::{
    common::v1::Address as AddressMessage,
    order::v1::{self, order},
};
use souk_store::events::Draft;

use crate::domain::{Address, Entry, Fulfillment, Kind, Line, Order, PaymentState, Rejection, RejectionReason, State};

/// The events for new entries of an order's timeline. Each event has the order as it is after all of these entries.
pub(crate) fn drafts(order: &Order, entries: &[Entry]) -> Vec<Draft> {
    let kinds: Vec<&'static str> = entries.iter().filter_map(|entry| event(entry.kind)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let message = self::order(order);
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

/// The message of an order.
pub(crate) fn order(order: &Order) -> v1::Order {
    let money = |minor| Some(order.money(minor).into());
    v1::Order {
        name: order.id.name(),
        customer: order.customer.name(),
        state: order_state(order.state).into(),
        lines: order.lines.iter().map(|line| self::line(order, line)).collect(),
        total: money(order.total),
        refunded_total: money(order.refunded),
        shipping_address: Some(address(&order.address)),
        external_id: order.external_id.clone().unwrap_or_default(),
        // The rejection is known a little earlier, but the contract promises it together with the state.
        rejection: match (order.state, &order.rejection) {
            (State::Rejected, Some(why)) => Some(rejection(why)),
            _ => None,
        },
        payment: order.payment.as_ref().map(|payment| order::Payment {
            provider: payment.provider.clone(),
            reference: payment.reference.clone(),
            state: payment_state(payment.state).into(),
            amount: money(order.total),
            refunded: money(order.refunded),
            settled_manually: payment.settled_manually,
            refunded_manually: (payment.refunded_manually > 0).then(|| order.money(payment.refunded_manually).into()),
        }),
        place_time: Some(timestamp(order.place_time)),
        create_time: Some(timestamp(order.create_time)),
        update_time: Some(timestamp(order.update_time)),
        etag: order.etag(),
        fulfillment_state: match order.fulfillment() {
            Fulfillment::Unfulfilled => order::FulfillmentState::Unfulfilled,
            Fulfillment::PartiallyShipped => order::FulfillmentState::PartiallyShipped,
            Fulfillment::Shipped => order::FulfillmentState::Shipped,
            Fulfillment::NotNeeded => order::FulfillmentState::NotNeeded,
        }
        .into(),
    }
}

fn line(order: &Order, line: &Line) -> order::Line {
    order::Line {
        number: line.number,
        product: line.product.name(),
        sku: line.sku.clone(),
        title: line.title.clone(),
        quantity: line.quantity,
        unit_price: Some(order.money(line.unit_price).into()),
        total: Some(order.money(line.total).into()),
        returned_quantity: line.returned,
        cancelled_quantity: line.cancelled,
        shipped_quantity: line.shipped,
    }
}

fn order_state(state: State) -> order::State {
    match state {
        State::Pending => order::State::Pending,
        State::Confirmed => order::State::Confirmed,
        State::Rejected => order::State::Rejected,
        State::Cancelling => order::State::Cancelling,
        State::Cancelled => order::State::Cancelled,
        // Orders never have these states, only adjustments.
        State::Returning | State::CancellingItems | State::Refunding | State::Completed => order::State::Unspecified,
    }
}

fn payment_state(state: PaymentState) -> order::payment::State {
    match state {
        PaymentState::Authorized => order::payment::State::Authorized,
        PaymentState::Captured => order::payment::State::Captured,
        PaymentState::Voided => order::payment::State::Voided,
        PaymentState::Declined => order::payment::State::Declined,
        PaymentState::Refunded => order::payment::State::Refunded,
    }
}

fn rejection(rejection: &Rejection) -> order::Rejection {
    order::Rejection {
        reason: match rejection.reason {
            RejectionReason::OutOfStock => "OUT_OF_STOCK",
            RejectionReason::PaymentDeclined => "PAYMENT_DECLINED",
            RejectionReason::OrderAbandoned => "ORDER_ABANDONED",
        }
        .to_owned(),
        message: rejection.message.clone(),
        items: rejection
            .items
            .iter()
            .map(|item| order::rejection::Item {
                product: item.product.name(),
                wanted: item.wanted,
                available: item.available,
            })
            .collect(),
    }
}

fn address(address: &Address) -> AddressMessage {
    AddressMessage {
        recipient: address.recipient.clone(),
        address_lines: address.address_lines.clone(),
        locality: address.locality.clone(),
        administrative_area: address.administrative_area.clone(),
        postal_code: address.postal_code.clone(),
        region_code: address.region_code.clone(),
    }
}

/// Converts a time to the contract's type.
pub(crate) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        // The nanoseconds of a second are below 10^9, so they fit.
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}
