//! Reservations: stock held for an order until it is paid.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use souk_common::ids::{LocationId, OrderId, ProductId, ReservationId};

/// How far a reservation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Holds stock until it expires.
    Open,
    /// Sold: the stock has left.
    Committed,
    /// Given back before it was sold.
    Released,
    /// Ran out before it was sold.
    Expired,
}

/// Stock held, or sold, at one location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces, at least 1.
    pub quantity: i64,
    /// Pieces of them that came back after the sale.
    pub returned: i64,
}

/// The items of an order, each product once.
pub type Items = BTreeMap<ProductId, i64>;

/// Stock held for one order. Lines stay when it is closed: they say what was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The order, whose id is the reservation's too.
    pub order: OrderId,
    /// How far it has come.
    pub state: State,
    /// Tells one wish from another, see [`fingerprint`]; empty if the order never wished for anything.
    pub items_hash: Vec<u8>,
    /// What is or was held, by product and location.
    pub lines: Vec<Line>,
    /// From when it no longer holds stock, while open.
    pub expires_at: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its state last changed.
    pub updated_at: DateTime<Utc>,
}

impl Reservation {
    /// The reservation's own id.
    pub fn id(&self) -> ReservationId {
        ReservationId::from_uuid(self.order.uuid())
    }

    /// Whether it has expired without being closed yet.
    pub fn has_lapsed(&self, now: DateTime<Utc>) -> bool {
        self.state == State::Open && self.expires_at <= now
    }

    /// Until when its lines hold stock; `None` if they do not.
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

/// Sums the items of each product, so that two lines of one product are one wish. `None` if a sum is too large.
pub fn sum(items: impl IntoIterator<Item = (ProductId, i64)>) -> Option<Items> {
    let mut sums = Items::new();
    for (product, quantity) in items {
        let sum = sums.entry(product).or_default();
        *sum = sum.checked_add(quantity)?;
    }
    Some(sums)
}

/// A digest of what an order wants: the same for the same items in whatever order.
pub fn fingerprint(items: &Items) -> Vec<u8> {
    let mut digest = Sha256::new();
    for (product, quantity) in items {
        digest.update(product.uuid().as_bytes());
        digest.update(quantity.to_be_bytes());
    }
    digest.finalize().to_vec()
}
