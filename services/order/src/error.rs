//! The errors of this service, and their one mapping to statuses.

use std::sync::Arc;

use souk_common::error::{Problem, Reason};
use souk_store::{
    coalesce::{BatchError, SubmitError},
    db::{DbError, Failure},
};

use crate::domain::Illegal;

/// A failure of an operation. Cheap to clone, because one may affect a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another order has this number of another system.
    #[error("another order has this external id")]
    ExternalIdTaken,
    /// The same key was used at the same moment: retry to get the result.
    #[error("the idempotency key was used at the same moment")]
    KeyRaced,
    /// The database holds what souk did not write.
    #[error("the database holds {0}")]
    Corrupt(String),
    /// An event of the log cannot be sent.
    #[error("the event at position {position}: {why}")]
    Event {
        /// Where the event is.
        position: i64,
        /// What is wrong with it.
        why: String,
    },
    /// The saga's table has no such transition: a bug.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// Too many writes wait already. Nothing was done.
    #[error("too many changes of orders are waiting")]
    Overloaded,
    /// The service is shutting down. Nothing was done.
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
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded | Self::ShuttingDown | Self::Lost => true,
            Self::Db(error) => error.is_unavailable() || error.is_conflict(),
            _ => false,
        }
    }

    /// Whether the connection was lost: the write may have taken effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.db().is_some_and(DbError::is_lost)
    }

    /// Whether concurrent transactions kept colliding.
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
