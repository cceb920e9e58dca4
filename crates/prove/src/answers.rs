//! souk's responses, as far as the run needs them, and what buyers did.

use anyhow::Context;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use souk_import::api::{Answer, Refusal};

/// An order, as placed or as found.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Order {
    /// Resource name.
    pub name: String,
    /// `STATE_…`.
    pub state: String,
    /// What was bought.
    pub lines: Vec<Line>,
    /// Sum of the lines.
    pub total: Money,
    /// What was given back.
    pub refunded_total: Option<Money>,
    /// Where the request's id stands.
    shipping_address: Address,
    /// Why not.
    pub rejection: Option<Rejection>,
    /// Its payment.
    pub payment: Option<Payment>,
}

/// A line of an order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Line {
    /// Resource name.
    pub product: String,
    /// Pieces ordered.
    #[serde(deserialize_with = "number")]
    pub quantity: i64,
    /// Price of a piece.
    pub unit_price: Money,
    /// Pieces that came back.
    #[serde(deserialize_with = "number")]
    pub returned_quantity: i64,
    /// Pieces that were cancelled.
    #[serde(deserialize_with = "number")]
    pub cancelled_quantity: i64,
}

impl Line {
    /// Pieces that are in stock again: those that came back, and those that were cancelled.
    pub fn back(&self) -> i64 {
        self.returned_quantity + self.cancelled_quantity
    }
}

/// An address, of which the first line says which request the order is of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    address_lines: Vec<String>,
}

/// Why an order could not be placed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// For programs.
    pub reason: String,
}

/// A payment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Payment {
    /// Whose.
    pub provider: String,
    /// `STATE_…`.
    pub state: String,
    /// What was authorised or taken.
    pub amount: Money,
    /// What was given back.
    pub refunded: Option<Money>,
}

/// A return.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Return {
    /// Resource name.
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
    /// In minor units.
    pub fn minor(self) -> i64 {
        self.units * 100 + self.nanos / 10_000_000
    }
}

/// 64-bit numbers are text in protobuf's JSON.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Order {
    /// The id of the request that it came from, which the run writes into the address.
    pub fn request_id(&self) -> &str {
        self.shipping_address.address_lines.first().map_or("", String::as_str)
    }

    /// Whether it was paid, whatever became of it later.
    pub fn is_sold(&self) -> bool {
        matches!(self.state.as_str(), "STATE_CONFIRMED" | "STATE_CANCELLING" | "STATE_CANCELLED")
    }

    /// Whether it needs no one any more: its state is final, and what came back is paid back.
    pub fn is_final(&self) -> bool {
        match self.state.as_str() {
            "STATE_REJECTED" => true,
            "STATE_CONFIRMED" | "STATE_CANCELLED" => self.worth(Line::back) == self.refunded(),
            _ => false,
        }
    }

    /// Some of its pieces at their prices, in minor units.
    pub fn worth(&self, pieces: impl Fn(&Line) -> i64) -> i64 {
        self.lines.iter().map(|line| pieces(line) * line.unit_price.minor()).sum()
    }

    /// What was given back, in minor units.
    pub fn refunded(&self) -> i64 {
        self.refunded_total.unwrap_or_default().minor()
    }
}

/// No good answer.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// souk refused, with this reason.
    Refused { reason: String, detail: String },
    /// No answer, however often it was asked.
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

/// What a call came to.
pub type Reply<T> = Result<T, Trouble>;

/// Reads what a call came to.
pub fn reply<T: DeserializeOwned>(answer: anyhow::Result<Answer>) -> Reply<T> {
    match answer {
        Ok(Ok(value)) => serde_json::from_value(value)
            .context("the answer cannot be read")
            .map_err(|error| Trouble::Unanswered(format!("{error:#}"))),
        Ok(Err(Refusal { reason, detail, .. })) => Err(Trouble::Refused { reason, detail }),
        Err(error) => Err(Trouble::Unanswered(format!("{error:#}"))),
    }
}

/// A purchase: what a buyer requested, and the responses.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// The key.
    pub request_id: String,
    /// Resource names of products, and pieces.
    pub items: Vec<(String, i64)>,
    /// The answers to all that were sent with this key; the same one, if all is well.
    pub placed: Vec<Reply<Order>>,
    /// The answers to all cancellations.
    pub cancelled: Vec<Reply<Order>>,
    /// The line and pieces that were sent back, and the answers.
    pub returned: Option<(usize, i64, Vec<Reply<Return>>)>,
}

impl Purchase {
    /// The order that was acknowledged.
    pub fn order(&self) -> Option<&Order> {
        self.placed.iter().flatten().next()
    }
}
