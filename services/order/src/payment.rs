//! Taking money: what a payment provider must be able to do, and those that there are.

pub mod simulated;
pub mod stripe;

use std::sync::Arc;

use futures::future::BoxFuture;
use souk_common::{ids::OrderId, money::Money};
use uuid::Uuid;

pub use self::{simulated::Simulated, stripe::Stripe};

/// A provider that holds, takes and gives back money.
///
/// Every operation may be repeated under the same key and then changes nothing and answers the same: a caller that
/// got no answer asks again.
pub trait PaymentProvider: Send + Sync + 'static {
    /// Its name, as orders show it.
    fn name(&self) -> &'static str;

    /// Holds money, and answers with the provider's own id of the payment. `key` is the order's id; `token` is what
    /// the customer's means of payment is known by, and is never logged.
    fn authorize<'a>(
        &'a self,
        key: &'a str,
        amount: Money,
        token: &'a str,
    ) -> BoxFuture<'a, Result<String, PaymentError>>;

    /// Takes the money that is held.
    fn capture<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Gives up the money that is held, for good. Succeeds where that was done before, and where nothing was held:
    /// then nothing will be, whatever is still on its way. Refused once it was taken.
    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Gives money back that was taken. `refund` is the refund's own key.
    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Reads a webhook: what the provider tells of its own accord. Whoever made it is known by the signature alone.
    fn webhook<'a>(&'a self, body: &'a [u8], signature: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>>;
}

/// That something has happened to a payment. What it is, the provider is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The provider's id of it: the same whenever it is sent again.
    pub id: String,
    /// The provider's word for what has happened, for logs.
    pub kind: String,
    /// The key of the payment that it is about, where souk has that payment.
    pub payment: Option<String>,
}

/// Why a webhook is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// This provider sends none, or none is expected of it.
    #[error("no webhooks are expected of this payment provider")]
    Unexpected,
    /// The signature is wrong. Says what of it.
    #[error("the webhook's signature {0}")]
    Signature(&'static str),
    /// It is signed, and still not what the provider sends.
    #[error("the webhook cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// It could not be looked up.
    #[error(transparent)]
    Books(#[from] souk_store::db::DbError),
}

/// The order of a payment's key; `None` where that is none of souk's.
#[must_use]
pub fn order_of(key: &str) -> Option<OrderId> {
    Uuid::try_parse(key).ok().map(OrderId::from_uuid)
}

/// The provider in use.
pub type Provider = Arc<dyn PaymentProvider>;

/// Why a provider did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// It refuses, for good.
    #[error("declined: {message}")]
    Declined {
        /// For the customer.
        message: String,
    },
    /// It could not be asked, or did not answer: whether it did what it was asked is unknown. Ask again.
    #[error("no answer from the payment provider: {0}")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
}
