//! The fields of souk's responses that the run needs, and the purchases of buyers.

use anyhow::Context;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use souk_import::api::{Answer, Refusal};

/// An order, as returned to a buyer or read at the end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Order {
    /// The resource name.
    pub name: String,
    /// `STATE_…`.
    pub state: String,
    /// The lines of the order.
    pub lines: Vec<Line>,
    /// The sum of the lines.
    pub total: Money,
    /// The amount that was refunded.
    pub refunded_total: Option<Money>,
    /// The shipping address, whose first line is the request id.
    shipping_address: Address,
    /// Why the order was rejected.
    pub rejection: Option<Rejection>,
    /// The payment of the order.
    pub payment: Option<Payment>,
}

/// A line of an order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Line {
    /// The resource name.
    pub product: String,
    /// Pieces ordered.
    #[serde(deserialize_with = "number")]
    pub quantity: i64,
    /// Price of a piece.
    pub unit_price: Money,
    /// Pieces that were returned.
    #[serde(deserialize_with = "number")]
    pub returned_quantity: i64,
    /// Pieces that were cancelled.
    #[serde(deserialize_with = "number")]
    pub cancelled_quantity: i64,
}

impl Line {
    /// Pieces that are in stock again: those that were returned or cancelled.
    pub fn back(&self) -> i64 {
        self.returned_quantity + self.cancelled_quantity
    }
}

/// An address. Its first line is the request id of the order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    address_lines: Vec<String>,
}

/// Why an order was rejected.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// The reason for programs.
    pub reason: String,
}

/// A payment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Payment {
    /// The payment provider.
    pub provider: String,
    /// `STATE_…`.
    pub state: String,
    /// The amount that was authorised or captured.
    pub amount: Money,
    /// The amount that was refunded.
    pub refunded: Option<Money>,
}

/// A return.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Return {
    /// The resource name.
    pub name: String,
    /// `STATE_…`.
    pub state: String,
}

/// An amount of a currency with two decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Money {
    #[serde(deserialize_with = "number")]
    units: i64,
    nanos: i64,
}

impl Money {
    /// The amount in minor units.
    pub fn minor(self) -> i64 {
        self.units * 100 + self.nanos / 10_000_000
    }
}

/// Parses a 64-bit number, which is a string in protobuf's JSON.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Order {
    /// The request id of the order, which the run writes into the address.
    pub fn request_id(&self) -> &str {
        self.shipping_address.address_lines.first().map_or("", String::as_str)
    }

    /// True if the order was paid, even if it was cancelled later.
    pub fn is_sold(&self) -> bool {
        matches!(self.state.as_str(), "STATE_CONFIRMED" | "STATE_CANCELLING" | "STATE_CANCELLED")
    }

    /// True if no saga of the order is running: its state is final, and returned goods are refunded.
    pub fn is_final(&self) -> bool {
        match self.state.as_str() {
            "STATE_REJECTED" => true,
            "STATE_CONFIRMED" | "STATE_CANCELLED" => self.worth(Line::back) == self.refunded(),
            _ => false,
        }
    }

    /// The price of some pieces of each line, in minor units.
    pub fn worth(&self, pieces: impl Fn(&Line) -> i64) -> i64 {
        self.lines.iter().map(|line| pieces(line) * line.unit_price.minor()).sum()
    }

    /// The amount that was refunded, in minor units.
    pub fn refunded(&self) -> i64 {
        self.refunded_total.unwrap_or_default().minor()
    }
}

/// A call without a good response.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// souk refused, with this reason.
    Refused { reason: String, detail: String },
    /// No response after all attempts.
    Unanswered(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { reason, detail } => write!(f, "refused, {reason}: {detail}"),
            Self::Unanswered(error) => write!(f, "unanswered: {error}"),
        }
    }
}

/// The result of a call.
pub type Reply<T> = Result<T, Trouble>;

/// Parses the result of a call.
pub fn reply<T: DeserializeOwned>(answer: anyhow::Result<Answer>) -> Reply<T> {
    match answer {
        Ok(Ok(value)) => serde_json::from_value(value)
            .context("the answer cannot be read")
            .map_err(|error| Trouble::Unanswered(format!("{error:#}"))),
        Ok(Err(Refusal { reason, detail, .. })) => Err(Trouble::Refused { reason, detail }),
        Err(error) => Err(Trouble::Unanswered(format!("{error:#}"))),
    }
}

/// A purchase: the requests of a buyer, and the responses.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// The idempotency key.
    pub request_id: String,
    /// The resource names of products, and pieces.
    pub items: Vec<(String, i64)>,
    /// The responses to all requests with this key. They must be the same.
    pub placed: Vec<Reply<Order>>,
    /// The responses to all cancellations.
    pub cancelled: Vec<Reply<Order>>,
    /// The returned line, the number of pieces, and the responses.
    pub returned: Option<(usize, i64, Vec<Reply<Return>>)>,
}

impl Purchase {
    /// The acknowledged order, if there was a good response.
    pub fn order(&self) -> Option<&Order> {
        self.placed.iter().flatten().next()
    }
}
