//! What only the API shows of the store, as the contract's messages.

use souk_proto::order::v1::{self, timeline_entry};

use crate::{
    domain::{Kind, Step},
    reply::timestamp,
    store::{SagaView, TimelineRow},
};

pub(super) fn saga(saga: &SagaView) -> v1::Saga {
    v1::Saga {
        name: saga.id.name(),
        order: saga.order.name(),
        state: saga.state.code().to_owned(),
        step: saga.step.map_or("", Step::code).to_owned(),
        attempts: saga.attempts,
        last_error: saga.last_error.clone().unwrap_or_default(),
        due_time: saga.due.map(timestamp),
        running: saga.running,
        create_time: Some(timestamp(saga.created)),
        update_time: Some(timestamp(saga.updated)),
    }
}

pub(super) fn entry(row: TimelineRow) -> v1::TimelineEntry {
    let visible_to_customer = !row.entry.internal;
    v1::TimelineEntry {
        number: row.number,
        kind: kind(row.entry.kind).into(),
        actor: row.entry.actor,
        detail: row.entry.detail,
        create_time: Some(timestamp(row.time)),
        visible_to_customer,
    }
}

fn kind(kind: Kind) -> timeline_entry::Kind {
    match kind {
        Kind::Placed => timeline_entry::Kind::Placed,
        Kind::StockReserved => timeline_entry::Kind::StockReserved,
        Kind::PaymentAuthorized => timeline_entry::Kind::PaymentAuthorized,
        Kind::StockCommitted => timeline_entry::Kind::StockCommitted,
        Kind::PaymentCaptured => timeline_entry::Kind::PaymentCaptured,
        Kind::Confirmed => timeline_entry::Kind::Confirmed,
        Kind::StockReleased => timeline_entry::Kind::StockReleased,
        Kind::PaymentVoided => timeline_entry::Kind::PaymentVoided,
        Kind::Rejected => timeline_entry::Kind::Rejected,
        Kind::CancelRequested => timeline_entry::Kind::CancelRequested,
        Kind::StockReturned => timeline_entry::Kind::StockReturned,
        Kind::PaymentRefunded => timeline_entry::Kind::PaymentRefunded,
        Kind::Cancelled => timeline_entry::Kind::Cancelled,
        Kind::ReturnRequested => timeline_entry::Kind::ReturnRequested,
        Kind::ReturnCompleted => timeline_entry::Kind::ReturnCompleted,
        Kind::Shipped => timeline_entry::Kind::Shipped,
        Kind::ItemsCancelRequested => timeline_entry::Kind::ItemsCancelRequested,
        Kind::ItemsCancelled => timeline_entry::Kind::ItemsCancelled,
        Kind::RefundRequested => timeline_entry::Kind::RefundRequested,
        Kind::RefundCompleted => timeline_entry::Kind::RefundCompleted,
        Kind::Note => timeline_entry::Kind::Note,
        Kind::RetryRequested => timeline_entry::Kind::RetryRequested,
        Kind::Abandoned => timeline_entry::Kind::Abandoned,
        Kind::FinishedManually => timeline_entry::Kind::FinishedManually,
    }
}
