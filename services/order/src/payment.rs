//! Payments: the interface of payment providers, and its implementations.

pub mod simulated;
pub mod stripe;

use std::sync::Arc;

use futures::future::BoxFuture;
use souk_common::{ids::OrderId, money::Money};
use uuid::Uuid;

pub use self::{simulated::Simulated, stripe::Stripe};

/// A provider that authorises, captures, voids and refunds payments.
///
/// Every operation is idempotent by its key and returns the same answer again: a caller without an answer retries.
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

    /// Refunds captured money. `refund` is the refund's own key.
    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Verifies and reads a webhook of the provider. Only its signature proves its origin.
    fn webhook<'a>(&'a self, body: &'a [u8], signature: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>>;
}

/// A notice that a payment has changed. The provider is then asked for its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The provider's id of it: the same whenever it is sent again.
    pub id: String,
    /// The provider's event type, for logs.
    pub kind: String,
    /// The key of the payment that it is about, where souk has that payment.
    pub payment: Option<String>,
}

/// Why a webhook is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// No webhooks are expected of this provider.
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

/// The order of a payment's key; `None` if that is none of souk's.
#[must_use]
pub fn order_of(key: &str) -> Option<OrderId> {
    Uuid::try_parse(key).ok().map(OrderId::from_uuid)
}

/// The provider in use.
pub type Provider = Arc<dyn PaymentProvider>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// It refuses, for good.
    #[error("declined: {message}")]
    Declined {
        /// For the customer.
        message: String,
    },
    /// It was unreachable or did not answer: whether the operation took effect is unknown. Retry it.
    #[error("no answer from the payment provider: {0}")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
}
