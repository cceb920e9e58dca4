//! Shipments of orders.

use chrono::{DateTime, Utc};
use souk_common::ids::{OrderId, ShipmentId};
use souk_store::db;

use super::{Begin, Key, OrderScope, Store, now, postgres, sqlite};
use crate::{
    domain::{Pieces, Shipment, Tracking},
    error::Error,
};

/// A shipment to record.
#[derive(Clone, Debug)]
pub struct Shipping {
    /// The pieces to send.
    pub items: Vec<Pieces>,
    /// The carrier and the tracking number.
    pub tracking: Tracking,
    /// When the goods were sent. `None`: now.
    pub time: Option<DateTime<Utc>>,
}

/// Selects shipments of an order.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// A single shipment.
    One(ShipmentId),
    /// A page: the shipments after this one, and the page size.
    Page(Option<ShipmentId>, i64),
}

impl Store {
    /// Records a shipment, and the response that `respond` creates.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ship(
        &self,
        key: &Key,
        id: OrderId,
        shipping: &Shipping,
        respond: impl Fn(&Shipment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Shipment>, Error> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
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

    /// Shipments of an order, oldest first. `None` if the order does not exist or belongs to another customer than
    /// `owner`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn shipments(
        &self,
        OrderScope { id, owner }: OrderScope,
        which: Which,
    ) -> Result<Option<Vec<Shipment>>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::shipments(conn, id, which).await?))
        })
    }
}
