//! Converts orders and adjustments to the contract's messages.

use chrono::{DateTime, Utc};
use prost::Message;
use prost_types::Timestamp;
use souk_common::money::Money;
use souk_proto::{
    common::v1::Address as AddressMessage,
    order::v1::{self, order, refund, r#return, shipment},
};

use crate::domain::{
    Address, Adjustment, Cause, Fulfillment, Line, Order, PaymentState, Rejection, RejectionReason, Shipment, State,
};

/// An order, encoded: what is stored as the answer to its request.
#[must_use]
pub fn encoded_order(order: &Order) -> Vec<u8> {
    self::order(order).encode_to_vec()
}

/// An adjustment, encoded: what is stored as the answer to its request. That of a cancellation only says that it is
/// done: the answer is the order.
#[must_use]
pub fn encoded_adjustment(adjustment: &Adjustment) -> Vec<u8> {
    match adjustment.cause {
        Cause::Return => back(adjustment).encode_to_vec(),
        Cause::Cancellation | Cause::Refund => refund(adjustment).encode_to_vec(),
    }
}

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
        // Known a little earlier, but the contract promises it with the state.
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

pub(crate) fn back(back: &Adjustment) -> v1::Return {
    v1::Return {
        name: back.return_name(),
        state: match back.state {
            State::Completed => r#return::State::Completed,
            _ => r#return::State::Pending,
        }
        .into(),
        lines: back
            .lines
            .iter()
            .map(|line| r#return::Line { line_number: line.number, quantity: line.quantity })
            .collect(),
        refund: Some(Money::into(back.refund)),
        reason: back.reason.clone(),
        return_time: Some(timestamp(back.time)),
        create_time: Some(timestamp(back.create_time)),
    }
}

pub(crate) fn refund(adjustment: &Adjustment) -> v1::Refund {
    v1::Refund {
        name: adjustment.refund_name(),
        state: match adjustment.state {
            State::Completed => refund::State::Completed,
            _ => refund::State::Pending,
        }
        .into(),
        cause: match adjustment.cause {
            Cause::Return => refund::Cause::Return,
            Cause::Cancellation => refund::Cause::Cancellation,
            Cause::Refund => refund::Cause::Refund,
        }
        .into(),
        amount: Some(Money::into(adjustment.refund)),
        reason: adjustment.reason.clone(),
        create_time: Some(timestamp(adjustment.create_time)),
        settled_manually: adjustment.settled_manually,
    }
}

pub(crate) fn shipment(shipment: &Shipment) -> v1::Shipment {
    v1::Shipment {
        name: shipment.name(),
        lines: shipment
            .lines
            .iter()
            .map(|line| shipment::Line { line_number: line.number, quantity: line.quantity })
            .collect(),
        carrier: shipment.tracking.carrier.clone(),
        tracking_number: shipment.tracking.number.clone(),
        tracking_url: shipment.tracking.url.clone(),
        ship_time: Some(timestamp(shipment.ship_time)),
        create_time: Some(timestamp(shipment.create_time)),
    }
}

fn order_state(state: State) -> order::State {
    match state {
        State::Pending => order::State::Pending,
        State::Confirmed => order::State::Confirmed,
        State::Rejected => order::State::Rejected,
        State::Cancelling => order::State::Cancelling,
        State::Cancelled => order::State::Cancelled,
        // Of adjustments alone.
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

pub(crate) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        // Below 10^9.
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}
