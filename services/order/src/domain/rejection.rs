//! Why an order could not be placed.

use serde::{Deserialize, Serialize};
use souk_common::ids::ProductId;

/// Why an order could not be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The reason, for programs.
    pub reason: RejectionReason,
    /// The reason, for people.
    pub message: String,
    /// The products that are short.
    pub items: Vec<Shortage>,
}

/// The kind of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectionReason {
    /// There was not enough stock.
    OutOfStock,
    /// The payment provider refused the payment.
    PaymentDeclined,
    /// An operator abandoned the order.
    OrderAbandoned,
}

/// A product that is short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The product.
    pub product: ProductId,
    /// Pieces ordered.
    pub wanted: i64,
    /// Pieces that were available.
    pub available: i64,
}
