//! The selection and the order of listed products.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::{ids::ProductId, page::filter::Op};

use super::{Price, Product, State, Tracking, code_key, title_key};

/// The sort field of a list. Products with the same value are sorted by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sort {
    /// The time of creation.
    CreateTime,
    /// The stock code. Letter case is ignored.
    Sku,
    /// The title. Letter case is ignored.
    Title,
    /// The price. The currency is ignored.
    Price,
}

/// The end of a page: the sort key of its last product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// The sort key is a time.
    Time(DateTime<Utc>, ProductId),
    /// The sort key is a stock code or a title.
    Text(String, ProductId),
    /// The sort key is a price.
    Number(i64, ProductId),
}

impl Key {
    /// The sort key of a product.
    pub fn of(product: &Product, sort: Sort) -> Self {
        match sort {
            Sort::CreateTime => Self::Time(product.created_at, product.id),
            Sort::Sku => Self::Text(code_key(&product.sku), product.id),
            Sort::Title => Self::Text(title_key(&product.title), product.id),
            Sort::Price => Self::Number(Price::try_from(product.price).map_or(0, Price::rank), product.id),
        }
    }
}

/// A condition on listed products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// On the stock code, in upper case.
    Sku(Op, String),
    /// On the title, in lower case.
    Title(Op, String),
    /// On the price's rank.
    Price(Op, i64),
    /// On whether stock is tracked. The operator is equal or not equal.
    Tracking(Op, Tracking),
    /// On the time of creation.
    CreateTime(Op, DateTime<Utc>),
}

impl Condition {
    /// True if the condition limits the range of the sort field, so that an index in this order finds the products.
    pub fn is_of(&self, sort: Sort) -> bool {
        match self {
            Self::Price(op, _) => sort == Sort::Price && *op != Op::NotEqual,
            Self::CreateTime(op, _) => sort == Sort::CreateTime && *op != Op::NotEqual,
            Self::Sku(..) | Self::Title(..) | Self::Tracking(..) => false,
        }
    }

    /// The index that finds the matching products, but not in the order of the list.
    fn index(&self) -> Option<Index> {
        match self {
            Self::Price(op, _) => (*op != Op::NotEqual).then_some(Index::Price),
            Self::CreateTime(op, _) => (*op != Op::NotEqual).then_some(Index::CreateTime),
            Self::Tracking(op, tracking) => {
                ((*tracking == Tracking::Untracked) == (*op == Op::Equal)).then_some(Index::Untracked)
            }
            Self::Title(op, _) => (*op == Op::Equal).then_some(Index::Title),
            Self::Sku(..) => None,
        }
    }
}

/// An index that finds the products that meet some conditions, perhaps few of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// That of prices.
    Price,
    /// That of times of creation.
    CreateTime,
    /// That of titles.
    Title,
    /// That of products whose stock is not tracked.
    Untracked,
}

/// The parameters of a page: which products, in which order, from which place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The state of the products; `None` if no state matches the filter.
    pub state: Option<State>,
    /// The conditions. All of them must be met.
    pub conditions: Vec<Condition>,
    /// The search words. A product must have all of them; the last one may be the beginning of a word. An empty list
    /// matches no product.
    pub words: Option<Vec<String>>,
    /// The sort field.
    pub sort: Sort,
    /// True if the order is reversed.
    pub descending: bool,
    /// The end of the previous page.
    pub after: Option<Key>,
    /// The most products of the page.
    pub limit: i64,
}

impl Listing {
    /// True if products must be read one by one to find those that match.
    pub fn scans(&self) -> bool {
        !self.finds_one() && !self.conditions.iter().all(|condition| condition.is_of(self.sort))
    }

    /// True if an index finds the one product that can match.
    pub fn finds_one(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Condition::Sku(Op::Equal, _)))
    }

    /// True if probably few products match: those with a title.
    pub fn is_narrow(&self) -> bool {
        self.conditions.iter().any(|condition| condition.index() == Some(Index::Title))
    }

    /// The indexes that may find few products, in another order than that of the list.
    pub fn indexes(&self) -> Vec<Index> {
        let others = self.conditions.iter().filter(|condition| !condition.is_of(self.sort));
        let mut indexes = Vec::new();
        for index in others.filter_map(Condition::index) {
            if !indexes.contains(&index) {
                indexes.push(index);
            }
        }
        indexes
    }

    /// The conditions that an index serves.
    pub fn conditions_of(&self, index: Index) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().filter(move |condition| condition.index() == Some(index))
    }
}
