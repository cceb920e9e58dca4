//! Products and their prices.

pub mod list;
pub mod search;
pub mod upsert;

use chrono::{DateTime, Utc};
use souk_common::{ids::ProductId, money::Money};

/// Something that is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Its id.
    pub id: ProductId,
    /// The merchant's stock code, as given.
    pub sku: String,
    /// What buyers see.
    pub title: String,
    /// More words about it.
    pub description: String,
    /// Price of one piece, never negative.
    pub price: Money,
    /// Whether its stock is tracked.
    pub tracking: Tracking,
    /// The product is low when at most this many pieces are available. `None`: never.
    pub low_stock_threshold: Option<i64>,
    /// Whether it can be sold.
    pub state: State,
    /// Counts its changes, from 1.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl Product {
    /// Changes with every change of the product.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// Whether a product's stock is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// Goods: sold only while in stock.
    Tracked,
    /// Postage, services, downloads: always available.
    Untracked,
}

/// Whether a product can be sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Can be sold.
    Active,
    /// No longer sold.
    Archived,
}

/// What a new product is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The merchant's stock code, as given.
    pub sku: String,
    /// What buyers see.
    pub title: String,
    /// More words about it.
    pub description: String,
    /// Price of one piece.
    pub price: Price,
    /// Whether its stock is tracked.
    pub tracking: Tracking,
    /// From how many pieces on it is low.
    pub low_stock_threshold: Option<i64>,
}

/// Changes of a product; `None` leaves a field unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The new title.
    pub title: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// The new price.
    pub price: Option<Price>,
    /// The new threshold, or none any more.
    pub low_stock_threshold: Option<Option<i64>>,
}

/// An amount that can be a price: not negative, and comparable with every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    money: Money,
    rank: i64,
}

/// Decimals of a [`Price::rank`]: no currency has more.
pub const RANK_DECIMALS: u32 = 4;

/// Why an amount cannot be a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Less than nothing.
    #[error("must not be negative")]
    Negative,
    /// More than can be compared.
    #[error("must be less than 922,337,203,685,477 of the currency's units")]
    TooLarge,
}

impl Price {
    /// The amount in ten-thousandths of the currency's unit: what prices are ordered and compared by.
    pub fn rank(self) -> i64 {
        self.rank
    }

    /// The amount.
    pub fn money(self) -> Money {
        self.money
    }
}

impl TryFrom<Money> for Price {
    type Error = PriceError;

    fn try_from(money: Money) -> Result<Self, PriceError> {
        if money.minor < 0 {
            return Err(PriceError::Negative);
        }
        let rank = RANK_DECIMALS
            .checked_sub(money.currency.exponent())
            .and_then(|decimals| money.minor.checked_mul(10_i64.pow(decimals)))
            .ok_or(PriceError::TooLarge)?;
        Ok(Self { money, rank })
    }
}

/// The form of stock codes and location codes for comparison, without regard to letter case. Codes
/// are ASCII.
pub fn code_key(code: &str) -> String {
    code.to_ascii_uppercase()
}

/// The form of titles for search and order, without regard to letter case.
pub fn title_key(title: &str) -> String {
    title.to_lowercase()
}
