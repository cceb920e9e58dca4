//! Rows of the tables, and their conversion to domain types.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use souk_common::{
    ids::{OrderId, ProductId, ReturnId, ShipmentId, UserId},
    money::Currency,
};
use uuid::Uuid;

use super::super::{
    Backend,
    schema::{
        idempotency_keys, order_lines, orders, return_lines, returns, shipment_lines, shipments, timeline_entries,
    },
};
use crate::{
    domain::{Adjustment, Entry, Line, Order, Payment, PaymentState, Shipment, State, Step, Token, Tracking},
    error::Error,
    store::{Key, Lease},
};

/// A row of `orders`.
/// On PostgreSQL, all new rows of a batch come from one JSON document.
#[derive(Queryable, Selectable, Insertable, serde::Serialize)]
#[diesel(table_name = orders, check_for_backend(Backend))]
pub(in crate::store) struct OrderRow {
    #[serde(serialize_with = "as_uuid")]
    pub id: OrderId,
    #[serde(serialize_with = "as_uuid")]
    pub customer_id: UserId,
    pub state: String,
    pub step: Option<String>,
    pub currency: Currency,
    pub total_minor: i64,
    pub refunded_minor: i64,
    pub shipping_address: serde_json::Value,
    pub external_id: Option<String>,
    pub rejection: Option<serde_json::Value>,
    pub payment_provider: Option<String>,
    pub payment_reference: Option<String>,
    pub payment_state: Option<String>,
    pub payment_token: Option<String>,
    pub placed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
    pub entries: i32,
    pub pending_returns: i32,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
    pub refunding_minor: i64,
    #[diesel(skip_insertion)]
    pub payment_settled_manually: bool,
    #[diesel(skip_insertion)]
    pub refunded_manually_minor: i64,
}

/// A row of `order_lines`.
#[derive(Queryable, Selectable, Insertable, serde::Serialize)]
#[diesel(table_name = order_lines, check_for_backend(Backend))]
pub(in crate::store) struct LineRow {
    #[serde(serialize_with = "as_uuid")]
    pub order_id: OrderId,
    pub number: i32,
    #[serde(serialize_with = "as_uuid")]
    pub product_id: ProductId,
    pub sku: String,
    pub title: String,
    pub quantity: i64,
    pub unit_price_minor: i64,
    pub total_minor: i64,
    pub returned: i64,
    pub tracked: bool,
    pub shipped: i64,
    pub returned_shipped: i64,
    pub cancelled: i64,
}

/// A row of `timeline_entries`.
#[derive(Queryable, Selectable, Insertable, serde::Serialize)]
#[diesel(table_name = timeline_entries, check_for_backend(Backend))]
pub(in crate::store) struct EntryRow {
    #[serde(serialize_with = "as_uuid")]
    pub order_id: OrderId,
    pub number: i32,
    pub kind: String,
    pub actor: String,
    pub detail: String,
    pub created_at: DateTime<Utc>,
    pub internal: bool,
}

/// Serializes an id in the text form that PostgreSQL reads.
fn as_uuid<I: Copy + Into<Uuid>, S: serde::Serializer>(id: &I, serializer: S) -> Result<S::Ok, S::Error> {
    let id: Uuid = (*id).into();
    serializer.collect_str(&id)
}

/// A new row of `idempotency_keys`.
#[derive(Insertable)]
#[diesel(table_name = idempotency_keys)]
pub(in crate::store) struct KeyRow {
    pub caller: String,
    pub method: String,
    pub key: String,
    pub request_hash: Vec<u8>,
    pub order_id: OrderId,
    pub return_id: Option<ReturnId>,
    pub created_at: DateTime<Utc>,
}

impl KeyRow {
    pub(super) fn new(key: &Key, order: OrderId, back: Option<ReturnId>, now: DateTime<Utc>) -> Self {
        Self {
            caller: key.caller.clone(),
            method: key.method.to_owned(),
            key: key.key.clone(),
            request_hash: key.request_hash.clone(),
            order_id: order,
            return_id: back,
            created_at: now,
        }
    }
}

/// A change of a row of `orders`, if the row still has this version and, if given, this lease.
pub(in crate::store) struct OrderUpdate {
    pub id: OrderId,
    pub version: i64,
    pub held: Option<i64>,
    pub values: OrderValues,
}

/// The columns of `orders` that can change.
#[derive(AsChangeset, serde::Serialize)]
#[diesel(table_name = orders, treat_none_as_null = true)]
pub(in crate::store) struct OrderValues {
    pub state: &'static str,
    pub step: Option<&'static str>,
    pub refunded_minor: i64,
    pub rejection: Option<serde_json::Value>,
    pub payment_provider: Option<String>,
    pub payment_reference: Option<String>,
    pub payment_state: Option<&'static str>,
    pub payment_token: Option<String>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
    pub entries: i32,
    pub pending_returns: i32,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
    pub last_error: Option<&'static str>,
}

impl OrderUpdate {
    pub(super) fn new(order: &Order, version: i64, held: Option<i64>, lease: Lease) -> Result<Self, Error> {
        let running = order.step.is_some();
        let payment = order.payment.as_ref();
        let values = OrderValues {
            state: order.state.code(),
            step: order.step.map(Step::code),
            refunded_minor: order.refunded,
            rejection: order.rejection.as_ref().map(serde_json::to_value).transpose()?,
            payment_provider: payment.map(|payment| payment.provider.clone()),
            payment_reference: payment.map(|payment| payment.reference.clone()),
            payment_state: payment.map(|payment| payment.state.code()),
            payment_token: order.payment_token.as_ref().map(|token| token.0.clone()),
            updated_at: order.update_time,
            version: order.version,
            entries: order.entries,
            pending_returns: order.pending_returns,
            lease: running.then_some(lease.id),
            due_at: running.then_some(lease.until),
            // The saga has progressed, so its failed tries are reset.
            attempts: 0,
            last_error: None,
        };
        Ok(Self { id: order.id, version, held, values })
    }
}

/// A row of `returns`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = returns, check_for_backend(Backend))]
pub(in crate::store) struct ReturnRow {
    pub id: ReturnId,
    pub order_id: OrderId,
    pub state: String,
    pub step: Option<String>,
    pub refund_minor: i64,
    pub reason: String,
    pub returned_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
    pub cause: String,
    #[diesel(skip_insertion)]
    pub settled_manually: bool,
}

/// A row of `return_lines`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = return_lines, check_for_backend(Backend))]
pub(in crate::store) struct ReturnLineRow {
    pub return_id: ReturnId,
    pub line_number: i32,
    pub quantity: i64,
}

/// A row of `shipments`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = shipments, check_for_backend(Backend))]
pub(in crate::store) struct ShipmentRow {
    pub id: ShipmentId,
    pub order_id: OrderId,
    pub carrier: String,
    pub tracking_number: String,
    pub tracking_url: String,
    pub shipped_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
}

/// A row of `shipment_lines`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = shipment_lines, check_for_backend(Backend))]
pub(in crate::store) struct ShipmentLineRow {
    pub shipment_id: ShipmentId,
    pub line_number: i32,
    pub quantity: i64,
}

pub(super) fn order_row(order: &Order, lease: Lease) -> Result<OrderRow, Error> {
    let payment = order.payment.as_ref();
    Ok(OrderRow {
        id: order.id,
        customer_id: order.customer,
        state: order.state.code().to_owned(),
        step: order.step.map(|step| step.code().to_owned()),
        currency: order.currency,
        total_minor: order.total,
        refunded_minor: order.refunded,
        shipping_address: serde_json::to_value(&order.address)?,
        external_id: order.external_id.clone(),
        rejection: order.rejection.as_ref().map(serde_json::to_value).transpose()?,
        payment_provider: payment.map(|payment| payment.provider.clone()),
        payment_reference: payment.map(|payment| payment.reference.clone()),
        payment_state: payment.map(|payment| payment.state.code().to_owned()),
        payment_token: order.payment_token.as_ref().map(|token| token.0.clone()),
        placed_at: order.place_time,
        created_at: order.create_time,
        updated_at: order.update_time,
        version: order.version,
        entries: order.entries,
        pending_returns: order.pending_returns,
        lease: Some(lease.id),
        due_at: Some(lease.until),
        attempts: order.attempts,
        refunding_minor: order.refunding,
        payment_settled_manually: false,
        refunded_manually_minor: 0,
    })
}

pub(super) fn line_row(order: OrderId, line: &Line) -> LineRow {
    LineRow {
        order_id: order,
        number: line.number,
        product_id: line.product,
        sku: line.sku.clone(),
        title: line.title.clone(),
        quantity: line.quantity,
        unit_price_minor: line.unit_price,
        total_minor: line.total,
        returned: line.returned,
        tracked: line.tracked,
        shipped: line.shipped,
        returned_shipped: line.returned_shipped,
        cancelled: line.cancelled,
    }
}

/// The row of a new adjustment. The state in the row is RETURNING for every running adjustment; `cause` distinguishes
/// them.
pub(super) fn adjustment_row(adjustment: &Adjustment, lease: Lease) -> ReturnRow {
    let running = adjustment.step.is_some();
    ReturnRow {
        id: adjustment.id,
        order_id: adjustment.order,
        state: adjustment_state(adjustment).to_owned(),
        step: adjustment.step.map(|step| step.code().to_owned()),
        refund_minor: adjustment.refund.minor,
        reason: adjustment.reason.clone(),
        returned_at: adjustment.time,
        created_at: adjustment.create_time,
        updated_at: adjustment.create_time,
        lease: running.then_some(lease.id),
        due_at: running.then_some(lease.until),
        attempts: adjustment.attempts,
        cause: adjustment.cause.code().to_owned(),
        settled_manually: false,
    }
}

pub(super) fn adjustment_state(adjustment: &Adjustment) -> &'static str {
    if adjustment.step.is_some() { State::Returning.code() } else { State::Completed.code() }
}

pub(super) fn shipment_row(shipment: &Shipment) -> ShipmentRow {
    ShipmentRow {
        id: shipment.id,
        order_id: shipment.order,
        carrier: shipment.tracking.carrier.clone(),
        tracking_number: shipment.tracking.number.clone(),
        tracking_url: shipment.tracking.url.clone(),
        shipped_at: shipment.ship_time,
        created_at: shipment.create_time,
    }
}

pub(super) fn read_shipment(row: ShipmentRow) -> Shipment {
    Shipment {
        id: row.id,
        order: row.order_id,
        lines: Vec::new(),
        tracking: Tracking { carrier: row.carrier, number: row.tracking_number, url: row.tracking_url },
        ship_time: row.shipped_at,
        create_time: row.created_at,
    }
}

/// The rows of new entries of an order's timeline. The last entry's number is the order's number of entries.
pub(super) fn entry_rows<'a>(order: &'a Order, entries: &'a [Entry]) -> impl Iterator<Item = EntryRow> + 'a {
    let first = order.entries - i32::try_from(entries.len()).unwrap_or(0) + 1;
    entries.iter().zip(first..).map(|(entry, number)| EntryRow {
        order_id: order.id,
        number,
        kind: entry.kind.code().to_owned(),
        actor: entry.actor.clone(),
        detail: entry.detail.clone(),
        created_at: order.update_time,
        internal: entry.internal,
    })
}

pub(super) fn read_order(row: OrderRow, lines: Vec<Line>) -> Result<Order, Error> {
    let payment = match row.payment_state {
        Some(state) => Some(Payment {
            provider: row.payment_provider.unwrap_or_default(),
            reference: row.payment_reference.unwrap_or_default(),
            state: PaymentState::from_code(&state)?,
            settled_manually: row.payment_settled_manually,
            refunded_manually: row.refunded_manually_minor,
        }),
        None => None,
    };
    Ok(Order {
        id: row.id,
        customer: row.customer_id,
        state: State::from_code(&row.state)?,
        step: step(row.step.as_deref())?,
        lines,
        currency: row.currency,
        total: row.total_minor,
        refunded: row.refunded_minor,
        refunding: row.refunding_minor,
        address: serde_json::from_value(row.shipping_address)?,
        external_id: row.external_id,
        rejection: row.rejection.map(serde_json::from_value).transpose()?,
        payment,
        payment_token: row.payment_token.map(Token),
        place_time: row.placed_at,
        create_time: row.created_at,
        update_time: row.updated_at,
        version: row.version,
        entries: row.entries,
        pending_returns: row.pending_returns,
        attempts: row.attempts,
    })
}

pub(super) fn step(code: Option<&str>) -> Result<Option<Step>, Error> {
    Ok(code.map(Step::from_code).transpose()?)
}
