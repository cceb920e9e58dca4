//! Reservations: stock held for an order until it is committed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use souk_common::ids::{LocationId, OrderId, ProductId, ReservationId};

/// The state of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Holds stock until it expires.
    Open,
    /// Sold: the stock was committed.
    Committed,
    /// Released before it was sold.
    Released,
    /// Expired before it was sold.
    Expired,
}

/// Reserved or sold stock at one location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces, at least 1.
    pub quantity: i64,
    /// Pieces that were returned after the sale.
    pub returned: i64,
}

/// The items of an order. Each product occurs once.
pub type Items = BTreeMap<ProductId, i64>;

/// Stock reserved for one order. The lines are kept when the reservation is closed, as a record of the reserved stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The order. Its id is also the reservation's id.
    pub order: OrderId,
    /// The state of the reservation.
    pub state: State,
    /// A digest of the items, see [`fingerprint`]. Empty if the order never reserved anything.
    pub items_hash: Vec<u8>,
    /// The lines, by product and location.
    pub lines: Vec<Line>,
    /// When an open reservation expires and no longer holds stock.
    pub expires_at: DateTime<Utc>,
    /// When the reservation was created.
    pub created_at: DateTime<Utc>,
    /// When the state last changed.
    pub updated_at: DateTime<Utc>,
}

impl Reservation {
    /// The id of the reservation.
    pub fn id(&self) -> ReservationId {
        ReservationId::from_uuid(self.order.uuid())
    }

    /// True if the reservation has expired but is not closed yet.
    pub fn has_lapsed(&self, now: DateTime<Utc>) -> bool {
        self.state == State::Open && self.expires_at <= now
    }

    /// The time until which the lines hold stock; `None` if they do not hold any.
    pub fn held_until(&self) -> Option<DateTime<Utc>> {
        (self.state == State::Open).then_some(self.expires_at)
    }

    /// Pieces of each product, over all locations.
    pub fn totals(&self) -> Items {
        let mut totals = Items::new();
        for line in &self.lines {
            *totals.entry(line.product).or_default() += line.quantity;
        }
        totals
    }
}

/// Sums the items of each product, so that each product occurs once. `None` if a sum is too large.
pub fn sum(items: impl IntoIterator<Item = (ProductId, i64)>) -> Option<Items> {
    let mut sums = Items::new();
    for (product, quantity) in items {
        let sum = sums.entry(product).or_default();
        *sum = sum.checked_add(quantity)?;
    }
    Some(sums)
}

/// A digest of the items. It does not depend on their order.
pub fn fingerprint(items: &Items) -> Vec<u8> {
    let mut digest = Sha256::new();
    for (product, quantity) in items {
        digest.update(product.uuid().as_bytes());
        digest.update(quantity.to_be_bytes());
    }
    digest.finalize().to_vec()
}
