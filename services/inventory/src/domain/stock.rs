//! Stock: how many pieces lie where, and the ledger that says why.

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
    /// Pieces that can be reserved now: what a reservation that ran out holds is free.
    pub available: i64,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Stock of one product at one location at a time in the past. What was reserved then is not remembered.
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

/// A place where stock lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// The merchant's short code, as given.
    pub code: String,
    /// What to call it.
    pub display_name: String,
    /// Orders are filled from the lowest number first.
    pub priority: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
