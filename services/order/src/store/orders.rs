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

/// An idempotency key, with its scope and the hash of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The resource name of the caller.
    pub caller: String,
    /// The name of the method.
    pub method: &'static str,
    /// The key itself.
    pub key: String,
    /// SHA-256 of the request.
    pub request_hash: Vec<u8>,
}

/// The idempotency record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// True if the record is of the same request.
    pub same_request: bool,
    /// The order that the request created or changed.
    pub order: OrderId,
    /// The adjustment that the request created.
    pub back: Option<ReturnId>,
    /// The encoded response, once it is final.
    pub response: Option<Vec<u8>>,
}

/// Identifies an order that a caller wants to reach.
#[derive(Clone, Copy, Debug)]
pub struct OrderScope {
    /// The order.
    pub id: OrderId,
    /// The order must belong to this user. `None`: any user.
    pub owner: Option<UserId>,
}

/// A query for a page of orders, newest first.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only orders of this customer. `None`: all customers.
    pub customer: Option<UserId>,
    /// The conditions that each order must meet.
    pub conditions: Vec<Condition>,
    /// The last order of the previous page.
    pub after: Option<OrderKey>,
    /// The most orders of the page.
    pub limit: i64,
}

/// The sort key of listed orders.
pub type OrderKey = (DateTime<Utc>, OrderId);

/// The states of orders that an index finds. Almost all orders are confirmed.
const RARE: [State; 4] = [State::Pending, State::Rejected, State::Cancelling, State::Cancelled];

impl Query {
    /// The states that the listed orders can have, if an index finds them. `None` if orders of any state are read, in
    /// the list's order.
    pub fn rare_states(&self) -> Option<Vec<State>> {
        let fits = |state: State| {
            let fits = |condition: &Condition| match condition {
                Condition::State(equal, other) => (state == *other) == *equal,
                _ => true,
            };
            self.conditions.iter().all(fits)
        };
        // Other indexes find a customer's orders, and the order with an external id.
        let common = fits(State::Confirmed) || self.customer.is_some() || self.finds_one();
        (!common).then(|| RARE.into_iter().filter(|state| fits(*state)).collect())
    }

    /// True if no index finds the matching orders, so that orders must be read one by one. An index serves a search by
    /// external id, and the order of the list: that of all orders, or that of a rare state.
    pub fn scans(&self, state: Option<State>) -> bool {
        let is_served = |condition: &Condition| match condition {
            Condition::CreateTime(op, _) => *op != Op::NotEqual,
            Condition::State(..) => state.is_some(),
            _ => false,
        };
        !self.finds_one() && !self.conditions.iter().all(is_served)
    }

    fn finds_one(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Condition::ExternalId(Op::Equal, _)))
    }
}

/// A condition on listed orders.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The order is in this state, or, with `false`, in another one.
    State(bool, State),
    /// Compares the external id. [`Op::Contains`] ignores the case of ASCII letters.
    ExternalId(Op, String),
    /// Compares the time at which the order was placed.
    PlaceTime(Op, DateTime<Utc>),
    /// Compares the time at which the order was recorded.
    CreateTime(Op, DateTime<Utc>),
}

/// An entry of a timeline with its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// The number of the entry, from 1.
    pub number: i32,
    /// The entry.
    pub entry: Entry,
    /// When it happened.
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
    /// The order does not exist, or belongs to another customer.
    NotFound,
    /// The order cannot be cancelled.
    Refused(CancelRefusal, Box<Order>),
    /// The order was cancelled before.
    Already(Box<Order>),
    /// The idempotency key was used before.
    Known(IdempotencyRecord),
    /// The cancellation of the order, or of some pieces, has begun under the lease.
    Begun(Saga),
}

/// The result of a change with an idempotency key.
#[derive(Clone, Debug)]
pub enum Begin<T> {
    /// The order does not exist.
    NotFound,
    /// The idempotency key was used before.
    Known(IdempotencyRecord),
    /// The change was refused.
    Refused(Refusal),
    /// The change was recorded.
    Begun(T),
}

/// A note to add.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// The text of the note.
    pub text: &'a str,
    /// True if only staff may see the note.
    pub internal: bool,
}

impl Store {
    /// Records an order under a lease. Returns the record if the key is known already; then nothing was written.
    ///
    /// # Errors
    /// [`Error::ExternalIdTaken`], or if the database fails.
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
            // The write may have taken effect. The idempotency record shows whether it did.
            written = self.writer.submit(write).await.map_err(Error::from);
        }
        match self.notify_if_ok(written)? {
            batch_writer::Written::Placed(known) => Ok(known),
            batch_writer::Written::Saved(_) => Err(Error::Lost),
        }
    }

    /// An order. If `owner` is given, the order must belong to this user.
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

    /// True if an order has this external id.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn external_id_is_taken(&self, id: &str) -> Result<bool, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::external_id_is_taken(conn, id).await })
    }

    /// At most `limit` entries of an order's timeline after number `after`, oldest first. `None` if the order does not
    /// exist or belongs to another customer than `owner`. An owner does not see internal entries.
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

    /// Begins to cancel an order, or some of its pieces, under a lease. `respond` creates the response of a
    /// cancellation that is final at once.
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
            // The cancellation of a whole order needs no key.
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

    /// Adds a note to an order's timeline, and stores the response that `respond` creates. Fails if the order is
    /// leased.
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
            // The saga's runner counts the entries. Its next write would fail if a note were added in between.
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

    /// Deletes idempotency records with a response that are older than `before`, some at a time, so that other writes
    /// need not wait. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        let (mut forgotten, mut after) = (0, None);
        loop {
            let (more, last) =
                db::write!(self.db, |conn, q| -> Result<_, Error> { q::forget(conn, after, before).await })?;
            forgotten += u64::try_from(more).unwrap_or(u64::MAX);
            if last.is_none() {
                return Ok(forgotten);
            }
            after = last;
        }
    }
}
