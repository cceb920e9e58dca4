//! Why an order could not be placed.

use serde::{Deserialize, Serialize};
use souk_common::ids::ProductId;

/// Why an order could not be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// For programs.
    pub reason: RejectionReason,
    /// For people.
    pub message: String,
    /// The products that are short.
    pub items: Vec<Shortage>,
}

/// What stood in an order's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectionReason {
    /// There was not enough stock.
    OutOfStock,
    /// The payment provider said no.
    PaymentDeclined,
    /// An operator gave the order up.
    OrderAbandoned,
}

/// A product that is short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The product.
    pub product: ProductId,
    /// Pieces ordered.
    pub wanted: i64,
    /// Pieces that could be had.
    pub available: i64,
}
