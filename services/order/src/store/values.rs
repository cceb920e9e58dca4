//! What the store is asked for, and what it answers with.

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ReturnId, ShipmentId, UserId},
    page::filter::Op,
};

use crate::domain::{Adjustment, CancelRefusal, Entry, Order, Pieces, Refusal, Saga, State, Tracking, What};

/// Who may ask what under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Resource name of the caller.
    pub caller: String,
    /// Name of the method.
    pub method: &'static str,
    /// The key itself.
    pub key: String,
    /// SHA-256 of the request.
    pub request_hash: Vec<u8>,
}

/// The idempotency record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Whether the request was the same.
    pub same_request: bool,
    /// The order that it made or was about.
    pub order: OrderId,
    /// The adjustment that it made.
    pub back: Option<ReturnId>,
    /// The encoded response, once it is final.
    pub response: Option<Vec<u8>>,
}

/// The right to run a saga until a time. Nobody else knows its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: i64,
    /// From when on others may take over.
    pub until: DateTime<Utc>,
}

/// A wish for a page of orders, newest first.
#[derive(Clone, Debug)]
pub struct Query {
    /// Whose orders; all where `None`.
    pub customer: Option<UserId>,
    /// What must hold of each.
    pub conditions: Vec<Condition>,
    /// The last one of the page before.
    pub after: Option<OrderKey>,
    /// How many at most.
    pub limit: i64,
}

/// What orders are listed by.
pub type OrderKey = (DateTime<Utc>, OrderId);

impl Query {
    /// Whether orders must be looked at one by one to see whether they fit: no index finds them, as it does by their
    /// number or in the order of the list.
    pub fn scans(&self) -> bool {
        let found = |condition: &Condition| matches!(condition, Condition::ExternalId(Op::Equal, _));
        let in_order = |condition: &Condition| matches!(condition, Condition::CreateTime(op, _) if *op != Op::NotEqual);
        !self.conditions.iter().any(found) && !self.conditions.iter().all(in_order)
    }
}

/// What must hold of an order to be listed.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It is in this state, or (`false`) in another one.
    State(bool, State),
    /// Its number in another system compares so. [`Op::Contains`] does not mind the case of ASCII letters.
    ExternalId(Op, String),
    /// When it was placed compares so.
    PlaceTime(Op, DateTime<Utc>),
    /// Compares the time of recording.
    CreateTime(Op, DateTime<Utc>),
}

/// An entry of a timeline with its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// From 1.
    pub number: i32,
    /// What happened.
    pub entry: Entry,
    /// When.
    pub time: DateTime<Utc>,
}

/// An order to record.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    pub key: Key,
    pub order: Order,
    pub entries: Vec<Entry>,
    pub lease: Lease,
}

/// An adjustment to record with its effects on the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct BegunAdjustment<'a> {
    /// The order after it.
    pub order: &'a Order,
    /// The order's version before it.
    pub version: i64,
    pub adjustment: &'a Adjustment,
    pub entries: &'a [Entry],
}

/// A step of an order's saga that has ended.
#[derive(Clone, Debug)]
pub(crate) struct SavedStep {
    /// The order after it.
    pub order: Order,
    /// The order's version before it.
    pub version: i64,
    pub entries: Vec<Entry>,
    pub response: Option<Vec<u8>>,
    /// The lease that must still be held, and the new one.
    pub held: i64,
    pub lease: Lease,
}

/// The result of a cancellation.
#[derive(Clone, Debug)]
pub enum Cancel {
    /// The order does not exist, or it is someone else's.
    NotFound,
    /// It cannot be cancelled.
    Refused(CancelRefusal, Box<Order>),
    /// It is cancelled already.
    Already(Box<Order>),
    /// The key is known.
    Known(IdempotencyRecord),
    /// Cancelling the order, or pieces of it, has begun under the lease.
    Begun(Saga),
}

/// The result of a change with an idempotency key.
#[derive(Clone, Debug)]
pub enum Begin<T> {
    /// There is no such order.
    NotFound,
    /// The key is known.
    Known(IdempotencyRecord),
    /// It was refused.
    Refused(Refusal),
    /// It was recorded.
    Begun(T),
}

/// An order, as far as a caller may reach it.
#[derive(Clone, Copy, Debug)]
pub struct OrderScope {
    /// The order.
    pub id: OrderId,
    /// Only if it is this user's. `None`: anyone's.
    pub owner: Option<UserId>,
}

/// An adjustment to begin.
#[derive(Clone, Copy, Debug)]
pub struct Adjusting<'a> {
    /// The order to adjust.
    pub order: OrderId,
    /// What to do.
    pub what: &'a What,
    /// When it happened, if that is not now.
    pub time: Option<DateTime<Utc>>,
}

/// A note to add.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Its text.
    pub text: &'a str,
    /// Whether only staff see it.
    pub internal: bool,
}

/// A lease to renew.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// The number of the lease that must still be held.
    pub held: i64,
    /// The lease from then on.
    pub lease: Lease,
}

/// A lease to release after a failed try.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The number of the lease that must still be held.
    pub held: i64,
    /// When the next try is due.
    pub due: DateTime<Utc>,
    /// Failed tries so far.
    pub attempts: i32,
    /// Why the last one failed, for operators alone.
    pub error: &'a str,
}

/// A shipment to record.
#[derive(Clone, Debug)]
pub struct Shipping {
    /// The pieces to send.
    pub items: Vec<Pieces>,
    /// How.
    pub tracking: Tracking,
    /// When it was sent, if not now.
    pub time: Option<DateTime<Utc>>,
}

/// Which of an order's shipments.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// This one.
    One(ShipmentId),
    /// A page after this one, of this size.
    Page(Option<ShipmentId>, i64),
}
