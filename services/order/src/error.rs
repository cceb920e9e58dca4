//! What can go wrong in the store.

use std::sync::Arc;

use souk_store::{
    coalesce::{BatchError, SubmitError},
    db::{DbError, Failure},
};

use super::codes::UnknownCode;
use crate::domain::Illegal;

/// A failure of the store. Cheap to clone, because one may affect a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
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
    /// The saga's table has no such transition.
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

impl StoreError {
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

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        match error.unique_violation() {
            Some("orders_external_id_key" | "orders.external_id") => Self::ExternalIdTaken,
            _ => Self::Db(Arc::new(error)),
        }
    }
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

impl From<UnknownCode> for StoreError {
    fn from(error: UnknownCode) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(format!("a document that cannot be read: {error}"))
    }
}

impl From<SubmitError<Self>> for StoreError {
    fn from(error: SubmitError<Self>) -> Self {
        match error {
            SubmitError::Overloaded => Self::Overloaded,
            SubmitError::Closed => Self::ShuttingDown,
            SubmitError::Lost => Self::Lost,
            SubmitError::Failed(error) => error,
        }
    }
}

impl BatchError for StoreError {
    fn strikes_all(&self) -> bool {
        self.is_transient()
    }
}

impl Failure for StoreError {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            _ => None,
        }
    }
}
