//! What can go wrong in the store.

use souk_common::db::{DbError, Failure};

use super::codes::UnknownCode;
use crate::domain::Illegal;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another order has this number of another system.
    #[error("another order has this external id")]
    ExternalIdTaken,
    /// The same key was used at the same moment; asking again tells how that went.
    #[error("the idempotency key was used at the same moment")]
    KeyRaced,
    /// The database holds what souk did not write.
    #[error("the database holds {0}")]
    Corrupt(String),
    /// A word of the database means nothing.
    #[error(transparent)]
    Code(#[from] UnknownCode),
    /// A document in the database cannot be read.
    #[error("a document in the database cannot be read")]
    Document(#[from] serde_json::Error),
    /// The saga's table has no such transition.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        match DbError::from(error) {
            error if matches!(error.unique_violation(), Some("orders_external_id_key" | "orders.external_id")) => {
                Self::ExternalIdTaken
            }
            error => Self::Db(error),
        }
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
