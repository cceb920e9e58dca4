//! The payment of an order.

/// A payment token, kept out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// An order's payment. Its amount is the order's total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The name of the provider.
    pub provider: String,
    /// The provider's id of the payment; empty if it gave none.
    pub reference: String,
    /// The state of the payment.
    pub state: PaymentState,
    /// True if an operator settled the payment manually, outside of souk.
    pub settled_manually: bool,
    /// The part of the refunds that operators paid manually, outside of souk, in minor units.
    pub refunded_manually: i64,
}

impl Payment {
    pub(super) fn new(provider: &str, reference: &str, state: PaymentState) -> Self {
        let (provider, reference) = (provider.to_owned(), reference.to_owned());
        Self { provider, reference, state, settled_manually: false, refunded_manually: 0 }
    }
}

/// The state of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// The money is held, but not captured.
    Authorized,
    /// The money was captured.
    Captured,
    /// The authorisation was voided.
    Voided,
    /// The provider refused the payment.
    Declined,
    /// The whole amount was refunded.
    Refunded,
}
