//! Conversions between the contract's messages and the domain's types. Requests were checked against the contract
//! before. The order message is in [`events`](crate::events), and the messages of adjustments are in
//! [`saga::answer`](crate::saga::answer), because both are stored, too.

use chrono::{DateTime, SubsecRound, Utc};
use prost::Message;
use prost_types::{Duration as DurationMessage, Timestamp};
use sha2::{Digest, Sha256};
use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::{IdError, OrderId, ProductId},
    money::Money,
    page::{
        PageError,
        filter::{self, Field, Term},
    },
};
use souk_proto::{
    common::v1::Address as AddressMessage,
    google::r#type::Money as MoneyMessage,
    order::v1::{
        self, WebhookDelivery, WebhookEndpoint, place_order_request::Item, shipment, timeline_entry, webhook_delivery,
        webhook_endpoint,
    },
};

use crate::{
    domain::{
        Address, Fault, Kind, Pieces, Shipment, Step, Wanted,
        delivery::{Attempt, Delivery, State},
        endpoint::{DisableReason, Endpoint},
    },
    events::timestamp,
    store::{Key, SagaView, TimelineRow, now},
};

pub(super) fn order_id(field: &str, name: &str) -> Result<OrderId, Problem> {
    OrderId::parse_name(name).map_err(|error| bad_id(field, &error))
}

pub(super) fn bad_id(field: &str, error: &IdError) -> Problem {
    Problem::invalid(field, error.to_string())
}

/// A request's idempotency key, scoped to the caller and the method, with a digest of the request.
pub(super) fn key(caller: &Caller, method: &'static str, request_id: &str, request: &impl Message) -> Key {
    Key {
        caller: caller.actor(),
        method,
        key: request_id.to_owned(),
        request_hash: Sha256::digest(request.encode_to_vec()).to_vec(),
    }
}

/// Reads a time that must be in the past.
pub(super) fn past(field: &str, time: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(time) = time else { return Ok(None) };
    // The range of the contract's Timestamp: the years 1 to 9999.
    const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let read = u32::try_from(time.nanos)
        .ok()
        .filter(|_| RANGE.contains(&time.seconds))
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| Problem::invalid(field, "must be a time of the years 1 to 9999"))?
        .trunc_subsecs(6);
    if read > now() {
        return Err(Problem::invalid(field, "must not be in the future"));
    }
    Ok(Some(read))
}

/// Reads pieces of lines from any message type.
pub(super) fn pieces<T>(items: &[T], read: impl Fn(&T) -> (i32, i64)) -> Vec<Pieces> {
    items.iter().map(read).map(|(number, quantity)| Pieces { number, quantity }).collect()
}

pub(super) fn faults(faults: Vec<Fault>) -> Problem {
    Problem::fields(faults.into_iter().map(|fault| (fault.field, fault.message)))
}

pub(super) fn bad_token(error: PageError) -> Problem {
    Problem::new(Reason::PageTokenInvalid, format!("page_token {error}")).field("page_token", error.to_string())
}

/// The conditions of a filter. `condition` reads each term.
pub(super) fn conditions<T>(
    text: &str,
    fields: &[Field],
    condition: impl Fn(Term) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let terms = filter::parse(text, fields).map_err(|error| Problem::invalid("filter", error.to_string()))?;
    terms.into_iter().map(condition).collect()
}

/// The total that the caller expects to pay, if the request has one.
pub(super) fn expected_total(total: Option<&MoneyMessage>) -> Result<Option<Money>, Problem> {
    let wrong = |what: String| Problem::invalid("expected_total", what);
    let total = total.map(Money::try_from).transpose().map_err(|error| wrong(error.to_string()))?;
    match total {
        Some(total) if total.minor < 0 => Err(wrong("must not be below zero".to_owned())),
        total => Ok(total),
    }
}

pub(super) fn wanted(items: &[Item]) -> Result<Vec<Wanted>, Problem> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let field = |name: &str| format!("items[{index}].{name}");
            let unit_price = item.unit_price.as_ref().map(Money::try_from).transpose();
            Ok(Wanted {
                product: ProductId::parse_name(&item.product).map_err(|error| bad_id(&field("product"), &error))?,
                quantity: item.quantity,
                unit_price: unit_price.map_err(|error| Problem::invalid(field("unit_price"), error.to_string()))?,
            })
        })
        .collect()
}

pub(super) fn address(address: Option<AddressMessage>) -> Result<Address, Problem> {
    let address = address.ok_or_else(|| Problem::invalid("shipping_address", "must be set"))?;
    Ok(Address {
        recipient: address.recipient,
        address_lines: address.address_lines,
        locality: address.locality,
        administrative_area: address.administrative_area,
        postal_code: address.postal_code,
        region_code: address.region_code,
    })
}

/// The message of a shipment.
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

pub(super) fn endpoint_with_secret(endpoint: &Endpoint) -> WebhookEndpoint {
    WebhookEndpoint { secret: endpoint.secrets.current.expose().to_owned(), ..self::endpoint(endpoint) }
}

pub(super) fn endpoint(endpoint: &Endpoint) -> WebhookEndpoint {
    let reason = match endpoint.disabled {
        None => webhook_endpoint::DisableReason::Unspecified,
        Some((_, DisableReason::Administrator)) => webhook_endpoint::DisableReason::Administrator,
        Some((_, DisableReason::Gone)) => webhook_endpoint::DisableReason::Gone,
        Some((_, DisableReason::Failing)) => webhook_endpoint::DisableReason::Failing,
    };
    let previous = endpoint.secrets.previous.as_ref().map(|(_, until)| *until).filter(|until| now() < *until);
    WebhookEndpoint {
        name: endpoint.id.name(),
        url: endpoint.url.clone(),
        description: endpoint.description.clone(),
        event_types: endpoint.event_types.clone(),
        disabled: endpoint.disabled.is_some(),
        disable_reason: reason.into(),
        disable_time: endpoint.disabled.map(|(at, _)| timestamp(at)),
        failing_since_time: endpoint.failing_since.map(timestamp),
        secret: String::new(),
        previous_secret_expire_time: previous.map(timestamp),
        create_time: Some(timestamp(endpoint.create_time)),
        update_time: Some(timestamp(endpoint.update_time)),
        etag: endpoint.etag(),
    }
}

pub(super) fn delivery(delivery: Delivery) -> WebhookDelivery {
    WebhookDelivery {
        name: format!("{}/{}", delivery.endpoint.name(), delivery.id.name()),
        event_id: delivery.event.to_string(),
        event_type: delivery.kind,
        subject: delivery.subject,
        state: match delivery.state {
            State::Pending => webhook_delivery::State::Pending,
            State::Delivered => webhook_delivery::State::Delivered,
            State::Failed => webhook_delivery::State::Failed,
        }
        .into(),
        attempt_count: delivery.attempt_count,
        attempts: delivery.attempts.into_iter().map(attempt).collect(),
        last_response_code: delivery.last_code,
        next_attempt_time: delivery.due.map(timestamp),
        create_time: Some(timestamp(delivery.create_time)),
        complete_time: delivery.settle_time.map(timestamp),
        body: delivery.body,
    }
}

fn attempt(attempt: Attempt) -> webhook_delivery::Attempt {
    let took = std::time::Duration::from_millis(attempt.took_ms);
    webhook_delivery::Attempt {
        time: Some(timestamp(attempt.time)),
        duration: DurationMessage::try_from(took).ok(),
        response_code: attempt.code.into(),
        error: attempt.error,
        response_excerpt: attempt.excerpt,
    }
}
