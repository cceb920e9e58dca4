//! Orders, their timelines, and the idempotency records of requests that change them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ReturnId, UserId},
    page::{Scan, filter::Op},
};
use souk_store::db;

use super::{Lease, Store, adjustments::BegunAdjustment, batch_writer, now, postgres, sqlite};
use crate::{
    domain::{Adjustment, CancelRefusal, Cancelling, Entry, Kind, Order, Pieces, Refusal, Saga, State, Wish},
    error::Error,
};

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

/// An order, as far as a caller may reach it.
#[derive(Clone, Copy, Debug)]
pub struct OrderScope {
    /// The order.
    pub id: OrderId,
    /// Only if it is this user's. `None`: anyone's.
    pub owner: Option<UserId>,
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

/// A note to add.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Its text.
    pub text: &'a str,
    /// Whether only staff see it.
    pub internal: bool,
}

impl Store {
    /// Records an order under a lease. `Some` if the key is known already; then nothing was written.
    ///
    /// # Errors
    /// [`Error::ExternalIdTaken`], or where the database fails.
    pub async fn place(
        &self,
        key: &Key,
        order: &Order,
        entries: &[Entry],
        lease: Lease,
    ) -> Result<Option<IdempotencyRecord>, Error> {
        let placing = Placing { key: key.clone(), order: order.clone(), entries: entries.to_vec(), lease };
        let write = batch_writer::Write::Place(Arc::new(placing));
        let mut written = self.writer.submit(write.clone()).await.map_err(Error::from);
        if written.as_ref().is_err_and(Error::is_lost) {
            // The write may have taken effect; the key tells.
            written = self.writer.submit(write).await.map_err(Error::from);
        }
        match self.notify_if_ok(written)? {
            batch_writer::Written::Placed(known) => Ok(known),
            batch_writer::Written::Saved(_) => Err(Error::Lost),
        }
    }

    /// An order; where `owner` is given, only if it is theirs.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn order(&self, id: OrderId, owner: Option<UserId>) -> Result<Option<Order>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::order(conn, id, owner).await })
    }

    /// A page of orders, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn orders(&self, query: &Query) -> Result<Scan<Order, OrderKey>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::list(conn, query).await })
    }

    /// Whether an order has this number of another system.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn external_id_is_taken(&self, id: &str) -> Result<bool, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::external_id_is_taken(conn, id).await })
    }

    /// At most `limit` entries of an order's timeline from number `after` on, oldest first; `None` if there is no
    /// such order, or not of this owner, who does not see what is for staff alone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn timeline(
        &self,
        OrderScope { id, owner }: OrderScope,
        after: i32,
        limit: i64,
    ) -> Result<Option<Vec<TimelineRow>>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::timeline(conn, id, owner.is_none(), after, limit).await?))
        })
    }

    /// Begins to cancel an order, or pieces of it, under a lease. `respond` makes the response of what is final at
    /// once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn cancel(
        &self,
        OrderScope { id, owner }: OrderScope,
        key: &Key,
        items: &[Pieces],
        wish: Wish<'_>,
        lease: Lease,
        respond: impl Fn(&Adjustment) -> Vec<u8> + Sync,
    ) -> Result<Cancel, Error> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
            let Some(mut order) = q::order_to_change(conn, id, owner).await? else {
                return Ok(Cancel::NotFound);
            };
            // Cancelling the whole order needs no key.
            if !items.is_empty()
                && let Some(record) = q::find_record(conn, key).await?
            {
                return Ok(Cancel::Known(record));
            }
            let version = order.version;
            match order.cancel(items, wish, now)? {
                Err(refusal) => Ok(Cancel::Refused(refusal, Box::new(order))),
                Ok(Cancelling::Already) => Ok(Cancel::Already(Box::new(order))),
                Ok(Cancelling::Whole(entries)) => {
                    if !q::update_order(conn, &order, version, &entries, lease).await? {
                        return Err(Error::Corrupt("a locked order that changed".into()));
                    }
                    Ok(Cancel::Begun(Saga::Order(Box::new(order))))
                }
                Ok(Cancelling::Items(adjustment, entries)) => {
                    let response = respond(&adjustment);
                    let begun = BegunAdjustment { order: &order, version, adjustment: &adjustment, entries: &entries };
                    q::begin_adjustment(conn, key, begun, lease, &response).await?;
                    Ok(Cancel::Begun(Saga::Adjustment(adjustment)))
                }
            }
        });
        self.notify_if_ok(written)
    }

    /// Adds a note to an order's timeline, and stores the response that `respond` makes. Refused only while the
    /// order is leased.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note(
        &self,
        key: &Key,
        id: OrderId,
        Note { text, internal }: Note<'_>,
        respond: impl Fn(&TimelineRow) -> Vec<u8> + Sync,
    ) -> Result<Begin<TimelineRow>, Error> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
            let mut order = match q::order_to_change_once(conn, key, id).await? {
                Err(begin) => return Ok(begin),
                Ok(order) => order,
            };
            // The saga's runner counts the entries: its next write would fail after a note in between.
            if q::is_leased(conn, id, now).await? {
                return Ok(Begin::Refused(Refusal::Busy));
            }
            let version = order.version;
            let entry = Entry { internal, ..Entry::new(Kind::Note, key.caller.as_str(), text) };
            let entries = order.record(entry.clone(), now);
            let row = TimelineRow { number: order.entries, entry, time: now };
            q::insert_answered_record(conn, key, order.id, &respond(&row), now).await?;
            q::write_effects(conn, &order, version, &[], &entries).await?;
            Ok(Begin::Begun(row))
        });
        self.notify_if_ok(written)
    }

    /// The idempotency record of a key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find_record(&self, key: &Key) -> Result<Option<IdempotencyRecord>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::find_record(conn, key).await })
    }

    /// Deletes answered keys that are older than this, and says how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            Ok(u64::try_from(q::forget(conn, before).await?).unwrap_or(u64::MAX))
        })
    }
}
