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
/// Every operation is idempotent by its key: a repeated request gets the same response. A caller without a response
/// retries.
pub trait PaymentProvider: Send + Sync + 'static {
    /// The provider's name, as orders show it.
    fn name(&self) -> &'static str;

    /// Authorises a payment, and returns the provider's own id of it. `key` is derived from the order's id. `token`
    /// represents the customer's means of payment. Never log it.
    fn authorize<'a>(
        &'a self,
        key: &'a str,
        amount: Money,
        token: &'a str,
    ) -> BoxFuture<'a, Result<String, PaymentError>>;

    /// Captures an authorised payment.
    fn capture<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Voids a payment, permanently. Succeeds if it was voided before, or was never authorised: then no authorisation
    /// that arrives later has an effect. Refused once the payment was captured.
    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Refunds captured money. `refund` is the refund's own key.
    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>>;

    /// Verifies and reads a webhook of the provider. Only the signature proves where it comes from.
    fn webhook<'a>(&'a self, body: &'a [u8], signature: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>>;
}

/// A notice that a payment has changed. souk then asks the provider for the payment's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The provider's id of the notice. It is the same each time the notice is sent.
    pub id: String,
    /// The provider's event type, for logs.
    pub kind: String,
    /// The payment's key, if souk has this payment.
    pub payment: Option<String>,
}

/// Why a webhook is rejected.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// This provider sends no webhooks.
    #[error("no webhooks are expected of this payment provider")]
    Unexpected,
    /// The signature is wrong. Has the reason.
    #[error("the webhook's signature {0}")]
    Signature(&'static str),
    /// The signature is right, but the body is not in the provider's format.
    #[error("the webhook cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// The payment could not be looked up.
    #[error(transparent)]
    Books(#[from] souk_store::db::DbError),
}

/// The order of a payment's key; `None` if the key is not one of souk's.
#[must_use]
pub fn order_of(key: &str) -> Option<OrderId> {
    Uuid::try_parse(key).ok().map(OrderId::from_uuid)
}

/// The provider in use.
pub type Provider = Arc<dyn PaymentProvider>;

/// Why a payment operation failed.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// The provider refused the operation permanently.
    #[error("declined: {message}")]
    Declined {
        /// The reason, for the customer.
        message: String,
    },
    /// The provider was unreachable or did not answer, so it is unknown whether the operation took effect. Retry it.
    #[error("no answer from the payment provider: {0}")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
}
