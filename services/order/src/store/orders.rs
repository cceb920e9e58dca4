//! Orders, their timelines, and the idempotency records of requests that change them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, UserId},
    page::Scan,
};
use souk_store::db;

use super::{
    Begin, Cancel, IdempotencyRecord, Key, Lease, Note, OrderKey, OrderScope, Placing, Query, Store, TimelineRow,
    batch_writer, now, postgres, sqlite, values::BegunAdjustment,
};
use crate::{
    domain::{Adjustment, Cancelling, Entry, Kind, Order, Pieces, Refusal, Saga, Wish},
    error::Error,
};

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
