//! The responses to requests that began a saga. Each is stored when the saga ends, and returned again to repeated
//! requests.

use prost::Message;
use souk_common::money::Money;
use souk_proto::order::v1::{self, refund, r#return};

use crate::{
    domain::{Adjustment, Cause, Saga, State},
    events::{self, timestamp},
};

/// The response to the request at the saga's end. A cancellation stores none: repeated requests read the order.
pub(crate) fn response(saga: &Saga) -> Option<Vec<u8>> {
    match saga {
        Saga::Order(order) if matches!(order.state, State::Confirmed | State::Rejected) => {
            Some(events::order(order).encode_to_vec())
        }
        Saga::Adjustment(adjustment) if adjustment.state == State::Completed => Some(encoded_adjustment(adjustment)),
        _ => None,
    }
}

/// An encoded adjustment, which is stored as the response to its request. For a cancellation of pieces it only marks
/// the request as completed: the response to the client is the order.
pub(crate) fn encoded_adjustment(adjustment: &Adjustment) -> Vec<u8> {
    match adjustment.cause {
        Cause::Return => back(adjustment).encode_to_vec(),
        Cause::Cancellation | Cause::Refund => refund(adjustment).encode_to_vec(),
    }
}

/// The message of a return.
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

/// The message of a refund.
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
