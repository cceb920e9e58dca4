//! Taking money: what a payment provider must be able to do, and the simulated one.

pub mod simulated;

use std::sync::Arc;

use futures::future::BoxFuture;
use souk_common::money::Money;

pub use self::simulated::Simulated;

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
