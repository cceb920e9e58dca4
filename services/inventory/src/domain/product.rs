//! Products and their prices.

pub mod list;
pub mod search;
pub mod upsert;

use chrono::{DateTime, Utc};
use souk_common::{ids::ProductId, money::Money};

/// A product of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The product's id.
    pub id: ProductId,
    /// The merchant's stock code, as given.
    pub sku: String,
    /// The title that customers see.
    pub title: String,
    /// The description that customers see.
    pub description: String,
    /// Price of one piece, never negative.
    pub price: Money,
    /// Whether the product's stock is tracked.
    pub tracking: Tracking,
    /// The product is low when at most this many pieces are available. `None`: never.
    pub low_stock_threshold: Option<i64>,
    /// Whether the product can be sold.
    pub state: State,
    /// The version of the product: counts its changes, from 1.
    pub version: i64,
    /// When the product was created.
    pub created_at: DateTime<Utc>,
    /// When the product last changed.
    pub updated_at: DateTime<Utc>,
}

impl Product {
    /// The etag. It changes with every change of the product.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// Whether a product's stock is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// Goods, which can be sold only while they are in stock.
    Tracked,
    /// Postage, services and downloads, which are always available.
    Untracked,
}

/// Whether a product can be sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The product can be sold.
    Active,
    /// The product is no longer sold.
    Archived,
}

/// The data of a new product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The merchant's stock code, as given.
    pub sku: String,
    /// The title that customers see.
    pub title: String,
    /// The description that customers see.
    pub description: String,
    /// Price of one piece.
    pub price: Price,
    /// Whether the product's stock is tracked.
    pub tracking: Tracking,
    /// The product is low when at most this many pieces are available. `None`: never.
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
    /// The new threshold. `Some(None)` removes it.
    pub low_stock_threshold: Option<Option<i64>>,
}

/// A valid price: an amount that is not negative, and can be compared with every other price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    money: Money,
    rank: i64,
}

/// The decimals of a [`Price::rank`]. No currency has more.
pub const RANK_DECIMALS: u32 = 4;

/// Why an amount is not a valid price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The amount is negative.
    #[error("must not be negative")]
    Negative,
    /// The amount is too large to be compared.
    #[error("must be less than 922,337,203,685,477 of the currency's units")]
    TooLarge,
}

impl Price {
    /// The amount in ten-thousandths of the currency's unit. Prices are sorted and compared by it.
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

/// The form of stock codes and location codes for comparison, which ignores letter case. Codes are ASCII.
pub fn code_key(code: &str) -> String {
    code.to_ascii_uppercase()
}

/// The form of titles for search and sorting, which ignores letter case.
pub fn title_key(title: &str) -> String {
    title.to_lowercase()
}
