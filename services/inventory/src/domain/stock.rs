//! Stock: how many pieces lie where, and the ledger that says why.

pub mod balance;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::ids::{LedgerEntryId, LocationId, ProductId};

/// One product at one location.
pub type Place = (ProductId, LocationId);

/// Pieces at one place. Always `0 <= reserved <= on_hand`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Pieces that are there.
    pub on_hand: i64,
    /// Pieces of them that open reservations hold.
    pub reserved: i64,
}

impl Level {
    /// Pieces that can still be reserved.
    pub fn available(self) -> i64 {
        self.on_hand - self.reserved
    }
}

/// Stock of one product at one location, as it is told to callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLevel {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces that are there.
    pub on_hand: i64,
    /// Pieces of them that open reservations hold.
    pub reserved: i64,
    /// Pieces that can be reserved now: what a reservation that expired holds is free.
    pub available: i64,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Stock of one product at one location at a time in the past. What was reserved then is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastLevel {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces that were there.
    pub on_hand: i64,
    /// When it had last changed by then.
    pub updated_at: DateTime<Utc>,
}

/// Why stock changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Goods came in.
    Receipt,
    /// Counting found another number.
    Count,
    /// Broken, lost or thrown away.
    Damage,
    /// Any other correction.
    Correction,
    /// A reservation was committed.
    Sale,
    /// Sold goods came back.
    Return,
    /// Left for another location.
    TransferOut,
    /// Arrived from another location.
    TransferIn,
}

/// One change of stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Its id.
    pub id: LedgerEntryId,
    /// Its number: a later entry has a higher one.
    pub seq: i64,
    /// What happened.
    pub movement: Movement,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// What happened to the stock at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The product.
    pub product: ProductId,
    /// The location.
    pub location: LocationId,
    /// Pieces added (above zero) or taken (below).
    pub quantity: i64,
    /// Pieces on hand afterwards.
    pub on_hand_after: i64,
    /// Why.
    pub reason: Reason,
    /// What it was for, for example an order's resource name.
    pub reference: String,
    /// A person's words about it.
    pub note: String,
    /// The resource name of who did it.
    pub actor: String,
}

/// Whether a product with this threshold is low while so many pieces can be bought.
pub fn is_low(available: i64, threshold: Option<i64>) -> bool {
    threshold.is_some_and(|threshold| available <= threshold)
}

/// Whether a change from so many pieces to so many made a product low that was not: what a merchant is told, once, and
/// again only after it was filled up.
pub fn became_low(before: i64, after: i64, threshold: Option<i64>) -> bool {
    !is_low(before, threshold) && is_low(after, threshold)
}

/// A product that is low.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowStock {
    /// The product.
    pub product: ProductId,
    /// Its stock code.
    pub sku: String,
    /// Its title.
    pub title: String,
    /// Pieces that can be bought now.
    pub available: i64,
    /// From how many on it is low.
    pub threshold: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_becomes_low_when_it_comes_down_to_its_threshold() {
        for (before, after, threshold, crosses) in [
            (6, 5, Some(5), true),
            (9, 0, Some(5), true),
            (6, 6, Some(5), false),
            (7, 6, Some(5), false),
            // It was low before.
            (5, 4, Some(5), false),
            (5, 5, Some(5), false),
            // It was filled up.
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
