//! The codes of states, steps and kinds in the database.

use crate::{
    domain::{Cause, Kind, PaymentState, State, Step, delivery::State as DeliveryState, endpoint::DisableReason},
    error::Error,
};

/// An unknown code in the database: a row that souk did not write.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a {1}")]
pub struct UnknownCode(String, &'static str);

impl From<UnknownCode> for Error {
    fn from(error: UnknownCode) -> Self {
        Self::Corrupt(error.to_string())
    }
}

macro_rules! codes {
    ($type:ident, $what:literal, $($variant:ident = $code:literal),+ $(,)?) => {
        impl $type {
            /// The code in the database.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// Parses a code of the database.
            ///
            /// # Errors
            /// If the code is unknown.
            pub fn from_code(code: &str) -> Result<Self, UnknownCode> {
                match code {
                    $($code => Ok(Self::$variant),)+
                    _ => Err(UnknownCode(code.to_owned(), $what)),
                }
            }
        }
    };
}

codes!(DeliveryState, "state of a delivery", Pending = "PENDING", Delivered = "DELIVERED", Failed = "FAILED");

codes!(DisableReason, "reason", Administrator = "ADMINISTRATOR", Gone = "GONE", Failing = "FAILING",);

codes!(
    State,
    "state",
    Pending = "PENDING",
    Confirmed = "CONFIRMED",
    Rejected = "REJECTED",
    Cancelling = "CANCELLING",
    Cancelled = "CANCELLED",
    Returning = "RETURNING",
    CancellingItems = "CANCELLING_ITEMS",
    Refunding = "REFUNDING",
    Completed = "COMPLETED",
);

codes!(Cause, "cause", Return = "RETURN", Cancellation = "CANCELLATION", Refund = "REFUND");

codes!(
    Step,
    "step",
    Reserve = "RESERVE",
    Authorize = "AUTHORIZE",
    Commit = "COMMIT",
    Capture = "CAPTURE",
    Release = "RELEASE",
    Void = "VOID",
    Restock = "RESTOCK",
    Refund = "REFUND",
);

codes!(
    PaymentState,
    "payment state",
    Authorized = "AUTHORIZED",
    Captured = "CAPTURED",
    Voided = "VOIDED",
    Declined = "DECLINED",
    Refunded = "REFUNDED",
);

codes!(
    Kind,
    "kind",
    Placed = "PLACED",
    StockReserved = "STOCK_RESERVED",
    PaymentAuthorized = "PAYMENT_AUTHORIZED",
    StockCommitted = "STOCK_COMMITTED",
    PaymentCaptured = "PAYMENT_CAPTURED",
    Confirmed = "CONFIRMED",
    StockReleased = "STOCK_RELEASED",
    PaymentVoided = "PAYMENT_VOIDED",
    Rejected = "REJECTED",
    CancelRequested = "CANCEL_REQUESTED",
    StockReturned = "STOCK_RETURNED",
    PaymentRefunded = "PAYMENT_REFUNDED",
    Cancelled = "CANCELLED",
    ReturnRequested = "RETURN_REQUESTED",
    ReturnCompleted = "RETURN_COMPLETED",
    Shipped = "SHIPPED",
    ItemsCancelRequested = "ITEMS_CANCEL_REQUESTED",
    ItemsCancelled = "ITEMS_CANCELLED",
    RefundRequested = "REFUND_REQUESTED",
    RefundCompleted = "REFUND_COMPLETED",
    Note = "NOTE",
    RetryRequested = "RETRY_REQUESTED",
    Abandoned = "ABANDONED",
    FinishedManually = "FINISHED_MANUALLY",
);
