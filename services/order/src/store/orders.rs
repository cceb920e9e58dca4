//! Changes of confirmed orders by requests: cancellations, adjustments, shipments and notes. Each has an idempotency
//! key.

use souk_common::ids::OrderId;
use souk_store::db;

use super::{
    Adjusting, Begin, Cancel, Key, Lease, Note, OrderScope, Shipping, Store, StoreError, TimelineRow, now, postgres,
    sqlite, values::BegunAdjustment,
};
use crate::domain::{Adjustment, Cancelling, Entry, Kind, Pieces, Refusal, Saga, Shipment, Wish};

impl Store {
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
    ) -> Result<Cancel, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
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
                        return Err(StoreError::Corrupt("a locked order that changed".into()));
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

    /// Records an adjustment under a lease. `respond` makes the response of one that is final at once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn adjust(
        &self,
        key: &Key,
        Adjusting { order: id, what, time }: Adjusting<'_>,
        wish: Wish<'_>,
        lease: Lease,
        respond: impl Fn(&Adjustment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Box<Adjustment>>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let mut order = match q::order_to_change_once(conn, key, id).await? {
                Err(begin) => return Ok(begin),
                Ok(order) => order,
            };
            let version = order.version;
            let (adjustment, entries) = match Adjustment::begin(&mut order, what, wish, time, now)? {
                Err(refusal) => return Ok(Begin::Refused(refusal)),
                Ok(begun) => begun,
            };
            let response = respond(&adjustment);
            let begun = BegunAdjustment { order: &order, version, adjustment: &adjustment, entries: &entries };
            q::begin_adjustment(conn, key, begun, lease, &response).await?;
            Ok(Begin::Begun(Box::new(adjustment)))
        });
        self.notify_if_ok(written)
    }

    /// Records a shipment, and the response that `respond` makes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ship(
        &self,
        key: &Key,
        id: OrderId,
        shipping: &Shipping,
        respond: impl Fn(&Shipment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Shipment>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let mut order = match q::order_to_change_once(conn, key, id).await? {
                Err(begin) => return Ok(begin),
                Ok(order) => order,
            };
            let version = order.version;
            let tracking = shipping.tracking.clone();
            let begun = Shipment::begin(&mut order, &shipping.items, tracking, &key.caller, shipping.time, now);
            let (shipment, entries) = match begun {
                Err(refusal) => return Ok(Begin::Refused(refusal)),
                Ok(begun) => begun,
            };
            q::insert_answered_record(conn, key, order.id, &respond(&shipment), now).await?;
            q::write_effects(conn, &order, version, &shipment.lines, &entries).await?;
            q::insert_shipment(conn, &shipment).await?;
            Ok(Begin::Begun(shipment))
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
    ) -> Result<Begin<TimelineRow>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
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
}
