//! Records about payments: webhooks that were received from the provider, the Stripe intent of each payment, and the
//! books of the simulated provider.

use chrono::{DateTime, Utc};
use souk_store::db;

use super::{Store, now, postgres, sqlite};
use crate::error::Error;

/// The entry for a payment in souk's records at Stripe. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Stripe's id of the intent.
    Intent(String),
    /// The payment has no intent, because there is nothing to pay.
    Free,
    /// The payment will never have an intent. Has the reason.
    Closed(String),
}

/// A payment in the provider's books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Booked {
    pub key: String,
    pub reference: String,
    pub behaviour: String,
    pub state: BookedState,
    pub currency: String,
    pub amount: i64,
    pub refunded: i64,
    pub message: String,
    pub expires_at: DateTime<Utc>,
    pub authorize_calls: i32,
    pub capture_calls: i32,
}

/// The state of a payment in the provider's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BookedState {
    New,
    Authorized,
    Captured,
    Voided,
    Declined,
}

impl BookedState {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Authorized => "AUTHORIZED",
            Self::Captured => "CAPTURED",
            Self::Voided => "VOIDED",
            Self::Declined => "DECLINED",
        }
    }

    /// A constraint of the table allows no other codes.
    pub(crate) fn from_code(code: &str) -> Self {
        match code {
            "AUTHORIZED" => Self::Authorized,
            "CAPTURED" => Self::Captured,
            "VOIDED" => Self::Voided,
            "DECLINED" => Self::Declined,
            _ => Self::New,
        }
    }
}

impl Store {
    /// True if this webhook of the payment provider was received before.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_noticed(&self, id: &str) -> Result<bool, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::is_noticed(conn, id).await })
    }

    /// Records that a webhook of the payment provider was received.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn notice(&self, id: &str) -> Result<(), Error> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::notice(conn, id, now).await })
    }

    /// Deletes the records of webhooks that are older than `before`. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_notices(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            Ok(u64::try_from(q::forget_notices(conn, before).await?).unwrap_or(u64::MAX))
        })
    }
}
