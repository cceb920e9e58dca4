//! What a page of products is asked for with, free of any engine.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::{ids::ProductId, page::filter::Op};

use crate::domain::product::{Product, State, Tracking, code_key, title_key};

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
            Sort::Price => {
                let rank = crate::domain::product::Price::try_from(product.price).map_or(0, |price| price.rank());
                Self::Number(rank, product.id)
            }
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
    /// Of the state: equal, or not equal.
    State(Op, State),
    /// Of whether stock is counted: equal, or not equal.
    Tracking(Op, Tracking),
    /// Of the time it was made.
    CreateTime(Op, DateTime<Utc>),
}

/// Which products, in which order, from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
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
