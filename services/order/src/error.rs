//! The errors of this service, and their one mapping to statuses.

use std::sync::Arc;

use souk_common::error::{Problem, Reason};
use souk_store::{
    coalesce::{BatchError, SubmitError},
    db::{DbError, Failure},
};

use crate::domain::Illegal;

/// A failure of an operation. Cheap to clone, because one failure may affect a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another order has this external id.
    #[error("another order has this external id")]
    ExternalIdTaken,
    /// Another request used the same key at the same moment. Retry to get its result.
    #[error("the idempotency key was used at the same moment")]
    KeyRaced,
    /// The database has a value that souk did not write.
    #[error("the database holds {0}")]
    Corrupt(String),
    /// An event of the log cannot be sent.
    #[error("the event at position {position}: {why}")]
    Event {
        /// The position of the event.
        position: i64,
        /// The reason.
        why: String,
    },
    /// The saga's table has no such transition, because of a bug.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// Too many writes are waiting already. Nothing was written.
    #[error("too many changes of orders are waiting")]
    Overloaded,
    /// The service is shutting down. Nothing was written.
    #[error("shutting down")]
    ShuttingDown,
    /// A batch returned no result, because of a bug. Whether it took effect is unknown.
    #[error("a change of an order got no answer")]
    Lost,
    /// The database failed.
    #[error(transparent)]
    Db(Arc<DbError>),
}

impl Error {
    /// True if a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded | Self::ShuttingDown | Self::Lost => true,
            Self::Db(error) => error.is_unavailable() || error.is_conflict(),
            _ => false,
        }
    }

    /// True if the connection was lost. The write may have taken effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.db().is_some_and(DbError::is_lost)
    }

    /// True if concurrent transactions kept conflicting.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.db().is_some_and(DbError::is_conflict)
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error.unique_violation() {
            Some("orders_external_id_key" | "orders.external_id") => Self::ExternalIdTaken,
            _ => Self::Db(Arc::new(error)),
        }
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(format!("a document that cannot be read: {error}"))
    }
}

impl From<SubmitError<Self>> for Error {
    fn from(error: SubmitError<Self>) -> Self {
        match error {
            SubmitError::Overloaded => Self::Overloaded,
            SubmitError::Closed => Self::ShuttingDown,
            SubmitError::Lost => Self::Lost,
            SubmitError::Failed(error) => error,
        }
    }
}

impl BatchError for Error {
    fn strikes_all(&self) -> bool {
        self.is_transient()
    }
}

impl Failure for Error {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::ExternalIdTaken => Self::new(Reason::ResourceExists, "another order has this external_id already")
                .field("external_id", "must not belong to another order"),
            Error::Db(cause) if cause.is_unavailable() => cause.problem("the orders' database").caused_by(error),
            Error::Db(cause) if cause.is_conflict() => {
                Self::new(Reason::Conflict, "concurrent changes kept colliding: try again").caused_by(error)
            }
            Error::KeyRaced => Self::new(
                Reason::RequestInProgress,
                "another request used this request_id at the same moment: try again",
            )
            .retry_after(std::time::Duration::from_millis(100)),
            Error::Overloaded => Self::new(
                Reason::Overloaded,
                "more changes of orders are waiting than the service can take: try again later",
            ),
            Error::ShuttingDown => Self::unavailable("the order service"),
            _ => Self::internal().caused_by(error),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}
