//! Product feeds: products of another system, compared with those of the catalogue.

use souk_common::ids::ProductId;

use super::{Change, Draft, Product, State, Tracking};

/// One product of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The data of the product.
    pub draft: Draft,
    /// Whether its stock is tracked, if the feed says so.
    pub tracking: Option<Tracking>,
}

/// The fields of existing products that a feed may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// True to change the title.
    pub title: bool,
    /// True to change the description.
    pub description: bool,
    /// True to change the price.
    pub price: bool,
    /// Which low-stock thresholds to change.
    pub low_stock_threshold: Threshold,
}

/// Which low-stock thresholds a feed may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// All thresholds: if an offer has none, the product's threshold is removed.
    All,
    /// Only the thresholds of offers that have one.
    Given,
    /// No thresholds.
    Keep,
}

/// The result of an offer, with the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The product was created.
    Created(ProductId),
    /// The product was changed.
    Updated(ProductId),
    /// The product was the same as the offer.
    Unchanged(ProductId),
}

/// Why an offer was refused. Other offers of the feed are not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// An earlier offer has the same stock code.
    #[error("offer {0} has the same stock code")]
    Twice(usize),
    /// The product is archived, so it cannot be changed.
    #[error("{0} is archived")]
    Archived(ProductId),
    /// The offer and the product differ in whether stock is tracked, which never changes.
    #[error("{0} is tracked otherwise")]
    OtherTracking(ProductId),
}

impl Offer {
    /// The change that makes the existing product like the offer; `None` if there is no difference.
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
