//! Commands on stock, their replies, and the reasons of refusals.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use souk_common::ids::{LocationId, OrderId, ProductId};

use super::{
    reservation::{Items, Reservation, State},
    stock::{Reason, StockLevel},
};

/// A requested change of stock.
#[derive(Debug, Clone)]
pub struct Command {
    /// The resource name of who asks.
    pub actor: String,
    /// What they ask for.
    pub action: Action,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Action {
    /// Hold stock for an order, all of it or none.
    Reserve {
        /// The order.
        order: OrderId,
        /// What it wants.
        items: Items,
        /// How long to hold it.
        ttl: TimeDelta,
    },
    /// Sell what is held.
    Commit {
        /// The order.
        order: OrderId,
    },
    /// Give back what is held.
    Release {
        /// The order.
        order: OrderId,
    },
    /// Close the reservation if it has expired.
    Expire {
        /// The order.
        order: OrderId,
    },
    /// Take sold goods back.
    Return {
        /// The order.
        order: OrderId,
        /// The return's own key.
        key: RequestKey,
        /// What came back.
        items: Items,
    },
    /// Change stock manually.
    Adjust {
        /// The caller's key.
        key: RequestKey,
        /// The changes, all of them or none.
        items: Vec<Adjustment>,
        /// Why.
        reason: Reason,
        /// What it was for.
        reference: String,
        /// A person's words about it.
        note: String,
    },
    /// Move stock from one location to another.
    Transfer {
        /// The caller's key.
        key: RequestKey,
        /// Where it is taken.
        source: LocationId,
        /// Where it goes.
        destination: LocationId,
        /// What is moved, all of it or nothing.
        items: Vec<Moved>,
        /// The reference: the same for both ledger entries.
        reference: String,
        /// A person's words about it.
        note: String,
    },
    /// Set stock to what was counted.
    Count {
        /// The caller's key.
        key: RequestKey,
        /// What was counted, all of it or nothing. Each place once.
        items: Vec<Counted>,
        /// What it was for.
        reference: String,
        /// A person's words about it.
        note: String,
    },
}

impl Action {
    /// The order whose reservation it is about.
    pub fn order(&self) -> Option<OrderId> {
        match self {
            Self::Reserve { order, .. }
            | Self::Commit { order }
            | Self::Release { order }
            | Self::Expire { order }
            | Self::Return { order, .. } => Some(*order),
            Self::Adjust { .. } | Self::Transfer { .. } | Self::Count { .. } => None,
        }
    }

    /// The products that it names.
    pub fn products(&self) -> Vec<ProductId> {
        match self {
            Self::Reserve { items, .. } | Self::Return { items, .. } => items.keys().copied().collect(),
            Self::Adjust { items, .. } => items.iter().map(|item| item.product).collect(),
            Self::Transfer { items, .. } => items.iter().map(|item| item.product).collect(),
            Self::Count { items, .. } => items.iter().map(|item| item.product).collect(),
            Self::Commit { .. } | Self::Release { .. } | Self::Expire { .. } => Vec::new(),
        }
    }

    /// The idempotency key.
    pub fn key(&self) -> Option<&RequestKey> {
        match self {
            Self::Return { key, .. }
            | Self::Adjust { key, .. }
            | Self::Transfer { key, .. }
            | Self::Count { key, .. } => Some(key),
            Self::Reserve { .. } | Self::Commit { .. } | Self::Release { .. } | Self::Expire { .. } => None,
        }
    }
}

/// A change of one product's stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// The product.
    pub product: ProductId,
    /// The location; the first in filling order where none is given.
    pub location: Option<LocationId>,
    /// Pieces to add (above zero) or take (below).
    pub quantity: i64,
}

/// Pieces of one product to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The product.
    pub product: ProductId,
    /// Pieces, at least 1.
    pub quantity: i64,
}

/// What a count found of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The product.
    pub product: ProductId,
    /// The location; the first in filling order where none is given.
    pub location: Option<LocationId>,
    /// Pieces that are there.
    pub quantity: i64,
    /// The recorded quantity that the count is based on, if given.
    pub expected_on_hand: Option<i64>,
}

/// A caller's idempotency key, with the hash of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// SHA-256 of the caller, the method and the caller's key.
    pub id: Vec<u8>,
    /// SHA-256 of the request.
    pub hash: Vec<u8>,
}

impl RequestKey {
    /// The key of one caller's request to one method.
    pub fn new(actor: &str, method: &str, key: &str, request: &[u8]) -> Self {
        // Zero bytes are in none of the three, so no two triples run together.
        let name = format!("{actor}\0{method}\0{key}");
        Self { id: Sha256::digest(name).to_vec(), hash: Sha256::digest(request).to_vec() }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The order's reservation after the change.
    Reservation(Reservation),
    /// The stock after the change, one for each item.
    Levels(Vec<StockLevel>),
}

/// Why a change is refused. Nothing of it took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such product.
    #[error("{0} does not exist")]
    NoProduct(ProductId),
    /// An item names no product.
    #[error("item {item}: {product} does not exist")]
    NoItemProduct {
        /// Which item, from 0.
        item: usize,
        /// What it names.
        product: ProductId,
    },
    /// An item names no location.
    #[error("item {item}: {location} does not exist")]
    NoItemLocation {
        /// Which item, from 0.
        item: usize,
        /// What it names.
        location: LocationId,
    },
    /// A transfer's location does not exist.
    #[error("{field}: {location} does not exist")]
    NoTransferLocation {
        /// The request's field that names it.
        field: &'static str,
        /// What it names.
        location: LocationId,
    },
    /// A transfer's two locations are one.
    #[error("{0} is both source and destination")]
    SameLocation(LocationId),
    /// Two items of a count are of one place.
    #[error("items {first} and {item} are of one place")]
    CountedTwice {
        /// The later item, from 0.
        item: usize,
        /// The item before it, from 0.
        first: usize,
    },
    /// Fewer pieces were counted than are reserved.
    #[error("{} items were counted below what is reserved", .0.len())]
    CountedBelowReserved(Vec<Undercount>),
    /// The recorded quantity has changed since the count began.
    #[error("the stock of {} items changed while it was counted", .0.len())]
    ChangedWhileCounted(Vec<Changed>),
    /// There is no location at all.
    #[error("there is no location")]
    NoLocation,
    /// Products that are no longer sold.
    #[error("{} products are archived", .0.len())]
    Archived(Vec<ProductId>),
    /// Not enough stock.
    #[error("{} products are short", .0.len())]
    OutOfStock(Vec<Shortage>),
    /// The order holds other items already.
    #[error("{0} holds other items")]
    OtherItems(OrderId),
    /// The order's reservation is in a state that does not allow it.
    #[error("{order} is {state:?}")]
    WrongState {
        /// The order.
        order: OrderId,
        /// Where its reservation stands.
        state: State,
    },
    /// The order has no reservation.
    #[error("{0} has no reservation")]
    NoReservation(OrderId),
    /// More would be returned than was sold.
    #[error("{} products would come back that were not sold", .0.len())]
    NotSold(Vec<Shortage>),
    /// The stock of an item's product is not counted.
    #[error("item {item}: {product} is not tracked")]
    Untracked {
        /// Which item, from 0.
        item: usize,
        /// Its product.
        product: ProductId,
    },
    /// An item would leave less on hand than is reserved.
    #[error("item {item}: {left} would be left of {product}, {reserved} are reserved")]
    BelowReserved {
        /// Which item, from 0.
        item: usize,
        /// Its product.
        product: ProductId,
        /// Pieces that the item adds.
        quantity: i64,
        /// Pieces that there are.
        on_hand: i64,
        /// Pieces that would be left.
        left: i64,
        /// Pieces that open reservations hold.
        reserved: i64,
    },
    /// Stock would be more than can be counted.
    #[error("more stock than can be counted of {0}")]
    TooMuch(ProductId),
    /// The key was used for another request, or so long ago that its response is no longer kept.
    #[error("the request key was used before")]
    KeyReused,
}

/// An item of a count that found less than reservations hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undercount {
    /// Which item, from 0.
    pub item: usize,
    /// Its product.
    pub product: ProductId,
    /// Pieces counted.
    pub counted: i64,
    /// Pieces that open reservations hold.
    pub reserved: i64,
}

/// An item of a count whose stock changed since it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which item, from 0.
    pub item: usize,
    /// Its product.
    pub product: ProductId,
    /// Pieces that were on hand, as the count says.
    pub expected: i64,
    /// Pieces that are on hand.
    pub on_hand: i64,
}

/// A product of which there is less than wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The product.
    pub product: ProductId,
    /// Pieces wanted.
    pub wanted: i64,
    /// Pieces that there are.
    pub available: i64,
}
