//! The actions of saga steps, and their answers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ProductId},
    money::Money,
};

use super::{Adjustment, Entry, Illegal, Order, Outcome, Shortage, State, Step};

/// Pieces of a product whose stock is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goods {
    /// The product.
    pub product: ProductId,
    /// Pieces, at least 1.
    pub quantity: i64,
}

impl Goods {
    /// Sums pieces by product, and omits products without pieces.
    pub fn sum(pieces: impl Iterator<Item = (ProductId, i64)>) -> Vec<Self> {
        let mut sums = BTreeMap::<ProductId, i64>::new();
        for (product, quantity) in pieces {
            *sums.entry(product).or_default() += quantity;
        }
        sums.into_iter()
            .filter(|&(_, quantity)| quantity > 0)
            .map(|(product, quantity)| Self { product, quantity })
            .collect()
    }
}

/// The request of a step to inventory or the payment provider. Each is idempotent, by the order, the payment's key
/// (the order's id) or a key of its own.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Hold goods for the order.
    Reserve {
        /// The goods.
        goods: Vec<Goods>,
    },
    /// Hold money.
    Authorize {
        /// The payment's key.
        payment: String,
        /// How much.
        amount: Money,
        /// What the provider wants to see.
        token: String,
    },
    /// Take the goods that are held.
    Commit,
    /// Take the money that is held.
    Capture {
        /// The payment's key.
        payment: String,
    },
    /// Give up the goods that are held.
    Release,
    /// Give up the money that is held.
    Void {
        /// The payment's key.
        payment: String,
    },
    /// Take sold goods back into stock.
    Restock {
        /// Inventory's idempotency key.
        request_id: String,
        /// The goods.
        goods: Vec<Goods>,
    },
    /// Give money back.
    Refund {
        /// The payment's key.
        payment: String,
        /// The provider's idempotency key.
        key: String,
        /// How much.
        amount: Money,
    },
}

/// What the other side answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The money is held.
    Authorized {
        /// Which provider.
        provider: String,
        /// The provider's id of the payment.
        reference: String,
    },
    /// There is not enough stock.
    OutOfStock {
        /// For people.
        message: String,
        /// Of which products.
        items: Vec<Shortage>,
    },
    /// The provider refuses, for good.
    Refused {
        /// Which provider.
        provider: String,
        /// For people.
        message: String,
    },
    /// The stock that was to be released is committed already.
    AlreadyCommitted,
}

impl Answer {
    /// What the saga's table makes of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Done | Self::Authorized { .. } => Outcome::Done,
            Self::OutOfStock { .. } => Outcome::OutOfStock,
            Self::Refused { .. } => Outcome::Refused,
            Self::AlreadyCommitted => Outcome::AlreadyCommitted,
        }
    }
}

/// A saga: an order that is being placed or cancelled, or an adjustment of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saga {
    /// An order.
    Order(Box<Order>),
    /// An adjustment.
    Adjustment(Box<Adjustment>),
}

impl Saga {
    /// The order it is about.
    #[must_use]
    pub fn order(&self) -> OrderId {
        match self {
            Self::Order(order) => order.id,
            Self::Adjustment(adjustment) => adjustment.order,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn position(&self) -> (State, Option<Step>) {
        match self {
            Self::Order(order) => (order.state, order.step),
            Self::Adjustment(adjustment) => (adjustment.state, adjustment.step),
        }
    }

    /// Whether the next step may begin before this result is stored. Authorising again under the same key has no
    /// further effect, so an order that is stored at AUTHORIZE may be further, until its payment is captured.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.position() == (State::Pending, Some(Step::Commit))
    }

    /// Its next step; `None` at its end.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::Order(order) => order.action(),
            Self::Adjustment(adjustment) => adjustment.action(),
        }
    }

    /// Failed tries since its last completed step.
    #[must_use]
    pub fn attempts(&self) -> i32 {
        match self {
            Self::Order(order) => order.attempts,
            Self::Adjustment(adjustment) => adjustment.attempts,
        }
    }

    /// Advances after an answer to its step; see [`Order::advance`].
    ///
    /// # Errors
    /// If the table has no such transition.
    pub fn advance(&mut self, answer: &Answer, unclear: bool, now: DateTime<Utc>) -> Result<Vec<Entry>, Illegal> {
        match self {
            Self::Order(order) => order.advance(answer, unclear, now),
            Self::Adjustment(adjustment) => adjustment.advance(answer, now),
        }
    }
}
