//! Which products a list has, and in which order.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::{ids::ProductId, page::filter::Op};

use super::{Price, Product, State, Tracking, code_key, title_key};

/// What products are ordered by. Products that are equal in it come by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sort {
    /// When they were made.
    CreateTime,
    /// Stock code without regard to letter case.
    Sku,
    /// Title without regard to letter case.
    Title,
    /// Price, whatever the currency.
    Price,
}

/// Where a page ends: what its last product is ordered by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// By time.
    Time(DateTime<Utc>, ProductId),
    /// By stock code or title.
    Text(String, ProductId),
    /// By price.
    Number(i64, ProductId),
}

impl Key {
    /// Where a page that ends with this product ends.
    pub fn of(product: &Product, sort: Sort) -> Self {
        match sort {
            Sort::CreateTime => Self::Time(product.created_at, product.id),
            Sort::Sku => Self::Text(code_key(&product.sku), product.id),
            Sort::Title => Self::Text(title_key(&product.title), product.id),
            Sort::Price => Self::Number(Price::try_from(product.price).map_or(0, Price::rank), product.id),
        }
    }
}

/// One thing that must be true of a listed product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Of the stock code, upper case.
    Sku(Op, String),
    /// Of the title, lower case.
    Title(Op, String),
    /// Of the price's rank.
    Price(Op, i64),
    /// Of whether stock is tracked: equal, or not equal.
    Tracking(Op, Tracking),
    /// Of the time it was made.
    CreateTime(Op, DateTime<Utc>),
}

impl Condition {
    /// Whether it says where in an order products begin or end, so that an index in that order finds them.
    pub fn is_of(&self, sort: Sort) -> bool {
        match self {
            Self::Price(op, _) => sort == Sort::Price && *op != Op::NotEqual,
            Self::CreateTime(op, _) => sort == Sort::CreateTime && *op != Op::NotEqual,
            Self::Sku(..) | Self::Title(..) | Self::Tracking(..) => false,
        }
    }

    /// Whether an index finds the few products that fit.
    fn finds_few(&self) -> bool {
        matches!(self, Self::Sku(Op::Equal, _) | Self::Title(Op::Equal, _))
    }
}

/// Which products, in which order, from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Their state; `None` if no state will do.
    pub state: Option<State>,
    /// All of these must be true.
    pub conditions: Vec<Condition>,
    /// All of these words must be among theirs, of the last one its beginning; with none, there are no such products.
    pub words: Option<Vec<String>>,
    /// What they are ordered by.
    pub sort: Sort,
    /// Whether the order is reversed.
    pub descending: bool,
    /// Where the last page ended.
    pub after: Option<Key>,
    /// How many at most.
    pub limit: i64,
}

impl Listing {
    /// Whether products must be looked at one by one to see whether they fit.
    pub fn scans(&self) -> bool {
        !self.finds_few() && !self.conditions.iter().all(|condition| condition.is_of(self.sort))
    }

    /// Whether an index finds the few products that can fit.
    pub fn finds_few(&self) -> bool {
        self.conditions.iter().any(Condition::finds_few)
    }
}
