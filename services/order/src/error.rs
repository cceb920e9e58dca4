//! The errors of this service, and their one mapping to statuses.

use souk_common::error::{Problem, Reason};

use crate::{domain::Illegal, store::StoreError};

/// A failure of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The saga's table has no such transition: a bug.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::Store(StoreError::ExternalIdTaken) => {
                Self::new(Reason::ResourceExists, "another order has this external_id already")
                    .field("external_id", "must not belong to another order")
            }
            Error::Store(StoreError::Db(cause)) if cause.is_unavailable() => {
                cause.problem("the orders' database").caused_by(error)
            }
            Error::Store(StoreError::Db(cause)) if cause.is_conflict() => {
                Self::new(Reason::Conflict, "concurrent changes kept colliding: try again").caused_by(error)
            }
            Error::Store(StoreError::KeyRaced) => Self::new(
                Reason::RequestInProgress,
                "another request used this request_id at the same moment: try again",
            )
            .retry_after(std::time::Duration::from_millis(100)),
            Error::Store(StoreError::Overloaded) => Self::new(
                Reason::Overloaded,
                "more changes of orders are waiting than the service can take: try again later",
            ),
            Error::Store(StoreError::ShuttingDown) => Self::unavailable("the order service"),
            Error::Store(_) | Error::Illegal(_) => Self::internal().caused_by(error),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}
