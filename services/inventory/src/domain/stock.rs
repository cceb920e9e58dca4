//! Stock levels, and the ledger that explains every change.

pub mod balance;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::ids::{LedgerEntryId, LocationId, ProductId};

/// One product at one location.
pub type Place = (ProductId, LocationId);

/// Pieces at one place. Always `0 <= reserved <= on_hand`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Pieces on hand.
    pub on_hand: i64,
    /// Pieces on hand that open reservations hold.
    pub reserved: i64,
}

impl Level {
    /// Pieces that can still be reserved.
    pub fn available(self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// Stock of one product at one location, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLevel {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces on hand.
    pub on_hand: i64,
    /// Pieces on hand that open reservations hold.
    pub reserved: i64,
    /// Pieces that can be reserved now. Pieces of expired reservations are available.
    pub available: i64,
    /// When the stock last changed.
    pub updated_at: DateTime<Utc>,
}

/// Stock of one product at one location at a time in the past. The reserved pieces of that time are not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastLevel {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces on hand at that time.
    pub on_hand: i64,
    /// When the stock had last changed before that time.
    pub updated_at: DateTime<Utc>,
}

/// Why stock changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Goods were received.
    Receipt,
    /// A count found another quantity.
    Count,
    /// Goods were broken, lost or thrown away.
    Damage,
    /// Any other correction.
    Correction,
    /// A reservation was committed.
    Sale,
    /// Sold goods were returned.
    Return,
    /// Goods were moved to another location.
    TransferOut,
    /// Goods arrived from another location.
    TransferIn,
}

/// One change of stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The entry's id.
    pub id: LedgerEntryId,
    /// The sequence number. A later entry has a higher one.
    pub seq: i64,
    /// The change of stock.
    pub movement: Movement,
    /// When the entry was written.
    pub created_at: DateTime<Utc>,
}

/// A change of the stock at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces added (above zero) or removed (below zero).
    pub quantity: i64,
    /// Pieces on hand afterwards.
    pub on_hand_after: i64,
    /// The reason of the change.
    pub reason: Reason,
    /// The cause of the change, for example an order's resource name.
    pub reference: String,
    /// A note by the user who made the change.
    pub note: String,
    /// The resource name of the user or service that made the change.
    pub actor: String,
}

/// True if a product with this threshold is low when this many pieces are available.
pub fn is_low(available: i64, threshold: Option<i64>) -> bool {
    threshold.is_some_and(|threshold| available <= threshold)
}

/// True if a change of the available pieces from `before` to `after` made a product low that was not low. Merchants get
/// one event for this, and another one only after the product was restocked.
pub fn became_low(before: i64, after: i64, threshold: Option<i64>) -> bool {
    !is_low(before, threshold) && is_low(after, threshold)
}

/// A product that is low.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowStock {
    /// The product.
    pub product: ProductId,
    /// The product's stock code.
    pub sku: String,
    /// The product's title.
    pub title: String,
    /// Pieces that are available now.
    pub available: i64,
    /// The product is low when at most this many pieces are available.
    pub threshold: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_becomes_low_when_it_reaches_its_threshold() {
        for (before, after, threshold, crosses) in [
            (6, 5, Some(5), true),
            (9, 0, Some(5), true),
            (6, 6, Some(5), false),
            (7, 6, Some(5), false),
            // The product was low before.
            (5, 4, Some(5), false),
            (5, 5, Some(5), false),
            // The product was restocked.
            (5, 6, Some(5), false),
            (1, 0, Some(0), true),
            (2, 1, Some(0), false),
            (1, 0, None, false),
        ] {
            assert_eq!(became_low(before, after, threshold), crosses, "{before} {after} {threshold:?}");
        }
        assert!(is_low(5, Some(5)) && !is_low(6, Some(5)) && !is_low(0, None));
    }
}
