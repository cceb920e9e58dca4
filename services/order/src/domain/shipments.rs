//! Shipments: goods of an order that are sent together.

use chrono::{DateTime, Utc};
use souk_common::ids::{OrderId, ShipmentId};

use super::{Entry, Kind, Move, Order, Pieces, Refusal};

/// Goods that left together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// Its id.
    pub id: ShipmentId,
    /// The order.
    pub order: OrderId,
    /// The pieces, by line; each line once.
    pub lines: Vec<Pieces>,
    /// How.
    pub tracking: Tracking,
    /// When it left.
    pub ship_time: DateTime<Utc>,
    /// When it was recorded.
    pub create_time: DateTime<Utc>,
}

/// The carrier and the tracking of a shipment. Each is empty if it is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the contract says what each means")]
pub struct Tracking {
    pub carrier: String,
    pub number: String,
    pub url: String,
}

impl Shipment {
    /// Records a shipment, and adds its pieces to the order.
    ///
    /// # Errors
    /// Why not, where it cannot be; the order is then unchanged.
    pub fn begin(
        order: &mut Order,
        items: &[Pieces],
        tracking: Tracking,
        actor: &str,
        ship_time: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(Self, Vec<Entry>), Refusal> {
        order.settled()?;
        let mut next = order.clone();
        let lines = next.book(items, "shipment.lines", Move::Ship).map_err(Refusal::Faults)?;
        let detail = [tracking.carrier.as_str(), tracking.number.as_str()].join(" ");
        let entries = next.record(Entry::new(Kind::Shipped, actor, detail.trim()), now);
        let shipment = Self {
            id: ShipmentId::new(),
            order: order.id,
            lines,
            tracking,
            ship_time: ship_time.unwrap_or(now),
            create_time: now,
        };
        *order = next;
        Ok((shipment, entries))
    }

    /// Its resource name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.order.name(), self.id.name())
    }
}
