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
    /// Sums pieces by product. Omits products without pieces.
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

/// The request of a step to inventory or the payment provider. Each is idempotent, by the order's id, by the payment's
/// key (derived from the order's id) or by a key of its own.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Reserve goods for the order.
    Reserve {
        /// The goods.
        goods: Vec<Goods>,
    },
    /// Authorise the payment.
    Authorize {
        /// The payment's key.
        payment: String,
        /// The amount to hold.
        amount: Money,
        /// The payment token for the provider.
        token: String,
    },
    /// Commit the reserved goods.
    Commit,
    /// Capture the payment.
    Capture {
        /// The payment's key.
        payment: String,
    },
    /// Release the reserved goods.
    Release,
    /// Void the payment.
    Void {
        /// The payment's key.
        payment: String,
    },
    /// Return sold goods to stock.
    Restock {
        /// Inventory's idempotency key.
        request_id: String,
        /// The goods.
        goods: Vec<Goods>,
    },
    /// Refund money.
    Refund {
        /// The payment's key.
        payment: String,
        /// The provider's idempotency key.
        key: String,
        /// The amount to refund.
        amount: Money,
    },
}

/// The answer of inventory or the payment provider to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The step is done.
    Done,
    /// The payment is authorised.
    Authorized {
        /// The name of the provider.
        provider: String,
        /// The provider's id of the payment.
        reference: String,
    },
    /// There is not enough stock.
    OutOfStock {
        /// The reason, for people.
        message: String,
        /// The products that are short.
        items: Vec<Shortage>,
    },
    /// The provider refused permanently.
    Refused {
        /// The name of the provider.
        provider: String,
        /// The reason, for people.
        message: String,
    },
    /// The stock that was to be released is committed already.
    AlreadyCommitted,
}

impl Answer {
    /// The outcome in the saga's table.
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
    /// The order of the saga.
    #[must_use]
    pub fn order(&self) -> OrderId {
        match self {
            Self::Order(order) => order.id,
            Self::Adjustment(adjustment) => adjustment.order,
        }
    }

    /// The state, and the next step.
    #[must_use]
    pub fn position(&self) -> (State, Option<Step>) {
        match self {
            Self::Order(order) => (order.state, order.step),
            Self::Adjustment(adjustment) => (adjustment.state, adjustment.step),
        }
    }

    /// True if the next step may begin before this result is stored. Reserving and authorising again have no further
    /// effect. So an order that is stored at RESERVE or AUTHORIZE may be further on, until its payment is captured.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self.position(), (State::Pending, Some(Step::Authorize | Step::Commit)))
    }

    /// The saga's next step; `None` at its end.
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
    pub fn advance(
        &mut self,
        answer: &Answer,
        unclear: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Entry>, Illegal> {
        match self {
            Self::Order(order) => order.advance(answer, unclear, now),
            Self::Adjustment(adjustment) => adjustment.advance(answer, now),
        }
    }
}
