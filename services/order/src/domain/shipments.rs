//! Shipments: goods of an order that are sent together.

use chrono::{DateTime, Utc};
use souk_common::ids::{OrderId, ShipmentId};

use super::{Entry, Kind, Move, Order, Pieces, Refusal};

/// Goods of an order that were sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// The shipment's id.
    pub id: ShipmentId,
    /// The order of the goods.
    pub order: OrderId,
    /// The pieces, by line. Each line occurs once.
    pub lines: Vec<Pieces>,
    /// The carrier and the tracking number.
    pub tracking: Tracking,
    /// When the goods were sent.
    pub ship_time: DateTime<Utc>,
    /// When the shipment was recorded.
    pub create_time: DateTime<Utc>,
}

/// The carrier and the tracking of a shipment. Unknown fields are empty.
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
    /// The reason if it is not possible. The order is then unchanged.
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

    /// The resource name of the shipment.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.order.name(), self.id.name())
    }
}
