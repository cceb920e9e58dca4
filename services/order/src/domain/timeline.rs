//! Timeline entries of an order.

use super::Wish;

/// The actor of changes that souk made by itself.
pub const SERVICE_ACTOR: &str = "services/order";

/// Kinds of timeline entries; see the contract's `TimelineEntry.Kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the contract says what each means")]
pub enum Kind {
    Placed,
    StockReserved,
    PaymentAuthorized,
    StockCommitted,
    PaymentCaptured,
    Confirmed,
    StockReleased,
    PaymentVoided,
    Rejected,
    CancelRequested,
    StockReturned,
    PaymentRefunded,
    Cancelled,
    ReturnRequested,
    ReturnCompleted,
    Shipped,
    ItemsCancelRequested,
    ItemsCancelled,
    RefundRequested,
    RefundCompleted,
    Note,
    RetryRequested,
    Abandoned,
    FinishedManually,
}

/// An entry of an order's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The kind of the entry.
    pub kind: Kind,
    /// The actor: a user's resource name or [`SERVICE_ACTOR`].
    pub actor: String,
    /// Details, for people.
    pub detail: String,
    /// True if only staff may see the entry.
    pub internal: bool,
}

impl Entry {
    /// An entry that the customer sees.
    pub fn new(kind: Kind, actor: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, actor: actor.into(), detail: detail.into(), internal: false }
    }

    /// The entry of a manual step. Its details are for staff alone.
    pub(super) fn finished_manually(wish: Wish<'_>) -> Self {
        Self { internal: true, ..Self::new(Kind::FinishedManually, wish.actor, wish.reason) }
    }
}
