//! Feeds: products as somebody else lists them, beside those that are here.

use souk_common::ids::ProductId;

use super::{Change, Draft, Product, State, Tracking};

/// One product of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it is, whole.
    pub draft: Draft,
    /// Whether its stock is tracked, where the feed says so.
    pub tracking: Option<Tracking>,
}

/// Which fields of a product that is here already a feed may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Its title.
    pub title: bool,
    /// Its description.
    pub description: bool,
    /// Its price.
    pub price: bool,
    /// Its low-stock threshold.
    pub low_stock_threshold: Threshold,
}

/// Which low-stock thresholds a feed may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// All: where an offer has none, the product has none from then on.
    All,
    /// Those of offers that have one.
    Given,
    /// None.
    Keep,
}

/// What became of an offer, and of which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Created(ProductId),
    /// It was changed.
    Updated(ProductId),
    /// It was here as offered.
    Unchanged(ProductId),
}

/// Why an offer is not taken. The others are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// An offer before it has the same stock code.
    #[error("offer {0} has the same stock code")]
    Twice(usize),
    /// The product is archived and so cannot be changed.
    #[error("{0} is archived")]
    Archived(ProductId),
    /// Whether stock is tracked never changes.
    #[error("{0} is tracked otherwise")]
    OtherTracking(ProductId),
}

impl Offer {
    /// What is to change of the product that has its stock code; `None` if that is as offered.
    pub fn change_of(&self, here: &Product, fields: Fields) -> Result<Option<Change>, NotTaken> {
        if here.state == State::Archived {
            return Err(NotTaken::Archived(here.id));
        }
        if self.tracking.is_some_and(|tracking| tracking != here.tracking) {
            return Err(NotTaken::OtherTracking(here.id));
        }
        let Draft { title, description, price, low_stock_threshold, .. } = &self.draft;
        let may_change = match fields.low_stock_threshold {
            Threshold::All => true,
            Threshold::Given => low_stock_threshold.is_some(),
            Threshold::Keep => false,
        };
        let change = Change {
            title: (fields.title && *title != here.title).then(|| title.clone()),
            description: (fields.description && *description != here.description).then(|| description.clone()),
            price: (fields.price && price.money() != here.price).then_some(*price),
            low_stock_threshold: (may_change && *low_stock_threshold != here.low_stock_threshold)
                .then_some(*low_stock_threshold),
        };
        Ok((change != Change::default()).then_some(change))
    }
}
