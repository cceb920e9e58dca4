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
    /// The resource name of the user or service that requests the change.
    pub actor: String,
    /// The requested action.
    pub action: Action,
}

/// The kind of change, with its parameters.
#[derive(Debug, Clone)]
pub enum Action {
    /// Reserve stock for an order, all of it or none.
    Reserve {
        /// The order.
        order: OrderId,
        /// The requested items.
        items: Items,
        /// Duration of the reservation.
        ttl: TimeDelta,
    },
    /// Commit the reserved stock: it is sold.
    Commit {
        /// The order.
        order: OrderId,
    },
    /// Release the reserved stock.
    Release {
        /// The order.
        order: OrderId,
    },
    /// Close the reservation if it has expired.
    Expire {
        /// The order.
        order: OrderId,
    },
    /// Return sold goods to stock.
    Return {
        /// The order.
        order: OrderId,
        /// The idempotency key of the return.
        key: RequestKey,
        /// The returned items.
        items: Items,
    },
    /// Change stock manually.
    Adjust {
        /// The caller's idempotency key.
        key: RequestKey,
        /// The changes. Either all take effect, or none.
        items: Vec<Adjustment>,
        /// The reason of the change.
        reason: Reason,
        /// The cause of the change, for example an order's resource name.
        reference: String,
        /// A note by the user who made the change.
        note: String,
    },
    /// Move stock from one location to another.
    Transfer {
        /// The caller's idempotency key.
        key: RequestKey,
        /// The location that loses the stock.
        source: LocationId,
        /// The location that gets the stock.
        destination: LocationId,
        /// The items to move. Either all are moved, or none.
        items: Vec<Moved>,
        /// The reference of both ledger entries.
        reference: String,
        /// A note by the user who made the change.
        note: String,
    },
    /// Set stock to the counted quantities.
    Count {
        /// The caller's idempotency key.
        key: RequestKey,
        /// The counted items. Either all take effect, or none. Each place occurs once.
        items: Vec<Counted>,
        /// The cause of the change.
        reference: String,
        /// A note by the user who made the change.
        note: String,
    },
}

impl Action {
    /// The order whose reservation the action changes.
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

    /// The products that the action names.
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
    /// The location. `None`: the first one in filling order.
    pub location: Option<LocationId>,
    /// Pieces to add (above zero) or remove (below zero).
    pub quantity: i64,
}

/// Pieces of one product to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The product.
    pub product: ProductId,
    /// Pieces to move, at least 1.
    pub quantity: i64,
}

/// The counted quantity of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The product.
    pub product: ProductId,
    /// The location. `None`: the first one in filling order.
    pub location: Option<LocationId>,
    /// Pieces that were counted.
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
    /// Creates the key of one caller's request to one method.
    pub fn new(actor: &str, method: &str, key: &str, request: &[u8]) -> Self {
        // None of the three contains a zero byte, so different triples give different texts.
        let name = format!("{actor}\0{method}\0{key}");
        Self { id: Sha256::digest(name).to_vec(), hash: Sha256::digest(request).to_vec() }
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The order's reservation after the change.
    Reservation(Reservation),
    /// The stock levels after the change, one for each item.
    Levels(Vec<StockLevel>),
}

/// Why a change was refused. Then nothing of it took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The product does not exist.
    #[error("{0} does not exist")]
    NoProduct(ProductId),
    /// An item's product does not exist.
    #[error("item {item}: {product} does not exist")]
    NoItemProduct {
        /// The index of the item, from 0.
        item: usize,
        /// The product that it names.
        product: ProductId,
    },
    /// An item's location does not exist.
    #[error("item {item}: {location} does not exist")]
    NoItemLocation {
        /// The index of the item, from 0.
        item: usize,
        /// The location that it names.
        location: LocationId,
    },
    /// A transfer's location does not exist.
    #[error("{field}: {location} does not exist")]
    NoTransferLocation {
        /// The field of the request that names the location.
        field: &'static str,
        /// The location that it names.
        location: LocationId,
    },
    /// The source and the destination of a transfer are the same location.
    #[error("{0} is both source and destination")]
    SameLocation(LocationId),
    /// Two items of a count have the same product and location.
    #[error("items {first} and {item} are of one place")]
    CountedTwice {
        /// The index of the later item, from 0.
        item: usize,
        /// The index of the earlier item, from 0.
        first: usize,
    },
    /// Fewer pieces were counted than are reserved.
    #[error("{} items were counted below what is reserved", .0.len())]
    CountedBelowReserved(Vec<Undercount>),
    /// The recorded quantity has changed since the count began.
    #[error("the stock of {} items changed while it was counted", .0.len())]
    ChangedWhileCounted(Vec<Changed>),
    /// No location exists.
    #[error("there is no location")]
    NoLocation,
    /// Some products are archived.
    #[error("{} products are archived", .0.len())]
    Archived(Vec<ProductId>),
    /// Some products are short.
    #[error("{} products are short", .0.len())]
    OutOfStock(Vec<Shortage>),
    /// The order has a reservation of other items already.
    #[error("{0} holds other items")]
    OtherItems(OrderId),
    /// The state of the order's reservation does not allow the change.
    #[error("{order} is {state:?}")]
    WrongState {
        /// The order.
        order: OrderId,
        /// The state of the order's reservation.
        state: State,
    },
    /// The order has no reservation.
    #[error("{0} has no reservation")]
    NoReservation(OrderId),
    /// More pieces would be returned than were sold.
    #[error("{} products would come back that were not sold", .0.len())]
    NotSold(Vec<Shortage>),
    /// The stock of an item's product is not tracked.
    #[error("item {item}: {product} is not tracked")]
    Untracked {
        /// The index of the item, from 0.
        item: usize,
        /// The item's product.
        product: ProductId,
    },
    /// An item would leave less on hand than is reserved.
    #[error("item {item}: {left} would be left of {product}, {reserved} are reserved")]
    BelowReserved {
        /// The index of the item, from 0.
        item: usize,
        /// The item's product.
        product: ProductId,
        /// Pieces that the item adds.
        quantity: i64,
        /// Pieces on hand.
        on_hand: i64,
        /// Pieces on hand that would be left.
        left: i64,
        /// Pieces that open reservations hold.
        reserved: i64,
    },
    /// The stock would exceed the largest number.
    #[error("more stock than can be counted of {0}")]
    TooMuch(ProductId),
    /// The key was used for another request, or so long ago that its response was deleted.
    #[error("the request key was used before")]
    KeyReused,
}

/// An item of a count with fewer pieces than reservations hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undercount {
    /// The index of the item, from 0.
    pub item: usize,
    /// The item's product.
    pub product: ProductId,
    /// Pieces that were counted.
    pub counted: i64,
    /// Pieces that open reservations hold.
    pub reserved: i64,
}

/// An item of a count whose stock has changed since the count began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The index of the item, from 0.
    pub item: usize,
    /// The item's product.
    pub product: ProductId,
    /// Pieces on hand that the count expected.
    pub expected: i64,
    /// Pieces that are on hand.
    pub on_hand: i64,
}

/// A product with fewer available pieces than requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The product.
    pub product: ProductId,
    /// Pieces requested.
    pub wanted: i64,
    /// Pieces available.
    pub available: i64,
}
