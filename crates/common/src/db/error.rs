//! What can go wrong with a database, sorted by what one can do about it.

use std::borrow::Cow;

use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};

/// A failure of the database. Its message is for logs: it may name tables, so it is never shown to clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// It cannot be reached, is full up, or took too long. The same may work later.
    #[error("the database is unavailable: {reason}")]
    Unavailable {
        /// What happened.
        reason: Cow<'static, str>,
        /// The driver's error, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Concurrent transactions kept colliding, more often than `write!` tries. Try again later.
    #[error("concurrent changes kept colliding")]
    Conflict(#[source] Diesel),
    /// A value that must be unique is there already.
    #[error("unique constraint {constraint:?} violated")]
    Unique {
        /// PostgreSQL: the constraint's name. SQLite: the columns, as `table.column, table.column`, or the name of
        /// an index over expressions.
        constraint: String,
        /// The driver's error.
        #[source]
        source: Diesel,
    },
    /// The settings are wrong. Its text says what would be right.
    #[error("database url {0}")]
    Config(String),
    /// A migration failed.
    #[error("migration failed")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else: a fault of ours.
    #[error("query failed")]
    Query(#[source] Diesel),
}

impl DbError {
    /// Which unique constraint was violated, if one was: on PostgreSQL its name (`users_email_key`), on SQLite its
    /// columns (`users.email`), so a caller matches both:
    /// `Some("users_email_key" | "users.email") => …`.
    #[must_use]
    pub fn unique_violation(&self) -> Option<&str> {
        match self {
            Self::Unique { constraint, .. } => Some(constraint),
            _ => None,
        }
    }

    /// Which `CHECK` was violated, by its name, if one was.
    #[must_use]
    pub fn check_violation(&self) -> Option<&str> {
        match self {
            Self::Query(Diesel::DatabaseError(Kind::CheckViolation, information)) => {
                Some(information.constraint_name().unwrap_or_else(|| {
                    let message = information.message();
                    message.strip_prefix("CHECK constraint failed: ").unwrap_or(message)
                }))
            }
            _ => None,
        }
    }

    /// Whether a foreign key was violated.
    #[must_use]
    pub fn is_foreign_key_violation(&self) -> bool {
        matches!(self, Self::Query(Diesel::DatabaseError(Kind::ForeignKeyViolation, _)))
    }

    /// Whether a query that must find a row found none.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Query(Diesel::NotFound))
    }

    /// Whether the database could not be reached, was full up or took too long.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether it says only that an earlier statement of the transaction failed (25P02).
    #[must_use]
    pub fn is_aftermath(&self) -> bool {
        use diesel::result::Error;
        let Self::Query(Error::DatabaseError(_, what)) = self else { return false };
        what.message().starts_with("current transaction is aborted")
    }

    /// Whether concurrent transactions kept colliding.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the connection is gone, so that another may work at once.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unavailable { reason, .. } if reason == LOST)
    }

    /// Whether another process holds the SQLite file.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Unavailable { reason, .. } if reason == BUSY)
    }

    pub(super) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable { reason: reason.into(), source: None }
    }

    pub(super) fn unavailable_because(
        reason: impl Into<Cow<'static, str>>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable { reason: reason.into(), source: Some(Box::new(source)) }
    }
}

const LOST: &str = "connection lost";
const BUSY: &str = "locked by another process";

/// Sorts the driver's errors.
impl From<Diesel> for DbError {
    fn from(error: Diesel) -> Self {
        let Diesel::DatabaseError(kind, information) = &error else {
            return match error {
                // The transaction manager has lost track: the connection died within BEGIN or COMMIT.
                Diesel::BrokenTransactionManager => Self::unavailable_because(LOST, error),
                Diesel::RollbackErrorOnCommit { commit_error, .. } => Self::from(*commit_error),
                error => Self::Query(error),
            };
        };
        match kind {
            Kind::SerializationFailure => Self::Conflict(error),
            Kind::UniqueViolation => Self::Unique { constraint: unique_constraint(&**information), source: error },
            Kind::UnableToSendCommand | Kind::ClosedConnection => Self::unavailable_because(LOST, error),
            // diesel keeps no SQLSTATE for the rest, so their texts must do.
            Kind::Unknown => match by_message(information.message()) {
                Some(Sort::Conflict) => Self::Conflict(error),
                Some(Sort::Unavailable(reason)) => Self::unavailable_because(reason, error),
                None => Self::Query(error),
            },
            _ => Self::Query(error),
        }
    }
}

fn unique_constraint(information: &dyn diesel::result::DatabaseErrorInformation) -> String {
    if let Some(name) = information.constraint_name() {
        return name.to_owned();
    }
    let message = information.message();
    let columns = message.strip_prefix("UNIQUE constraint failed: ").unwrap_or(message);
    match columns.strip_prefix("index '") {
        Some(index) => index.trim_end_matches('\'').to_owned(),
        None => columns.to_owned(),
    }
}

enum Sort {
    Conflict,
    Unavailable(&'static str),
}

/// Sorts by the server's English text. `Db::connect` warns of a PostgreSQL that speaks another language.
fn by_message(message: &str) -> Option<Sort> {
    let unavailable = |reason| Some(Sort::Unavailable(reason));
    match message {
        // 40P01
        "deadlock detected" => Some(Sort::Conflict),
        // 57014, 55P03
        "canceling statement due to statement timeout" => unavailable("statement timeout"),
        "canceling statement due to lock timeout" => unavailable("lock timeout"),
        // SQLITE_BUSY, after the busy timeout: another process holds the file.
        "database is locked" => unavailable(BUSY),
        // SQLITE_FULL, SQLITE_IOERR
        "database or disk is full" => unavailable("disk full"),
        // 25P03
        _ if message.starts_with("terminating connection due to idle") => unavailable("transaction left idle"),
        // 57P01, 57P02, 57P03, 53300
        _ if message.starts_with("terminating connection") => unavailable(LOST),
        _ if message.starts_with("the database system is") => unavailable("server not up"),
        _ if message.starts_with("sorry, too many clients already")
            || message.starts_with("remaining connection slots are reserved") =>
        {
            unavailable("server has no free connection")
        }
        _ => None,
    }
}

/// What the body of `read!`, `snapshot!` or `write!` fails with: a failure of the database, or a refusal of the
/// domain. The macros look at [`Failure::db`] to decide whether the transaction is worth another try.
///
/// ```
/// # use souk_common::db::{DbError, Failure};
/// #[derive(Debug, thiserror::Error)]
/// enum StoreError {
///     #[error("this email belongs to another account")]
///     EmailTaken,
///     #[error(transparent)]
///     Db(#[from] DbError),
/// }
///
/// impl From<diesel::result::Error> for StoreError {
///     fn from(error: diesel::result::Error) -> Self {
///         match DbError::from(error) {
///             error if matches!(error.unique_violation(), Some("users_email_key" | "users.email")) => {
///                 Self::EmailTaken
///             }
///             error => Self::Db(error),
///         }
///     }
/// }
///
/// impl Failure for StoreError {
///     fn db(&self) -> Option<&DbError> {
///         match self {
///             Self::Db(error) => Some(error),
///             _ => None,
///         }
///     }
/// }
/// ```
pub trait Failure: From<Diesel> + From<DbError> + Send {
    /// The database's failure in it, if there is one. It must be kept as it came: a failure that is hidden here is
    /// not retried.
    fn db(&self) -> Option<&DbError>;
}

impl Failure for DbError {
    fn db(&self) -> Option<&DbError> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(kind: Kind, message: &str) -> DbError {
        DbError::from(Diesel::DatabaseError(kind, Box::new(message.to_owned())))
    }

    #[test]
    fn sqlite_s_unique_violations_name_their_columns() {
        let error = sorted(Kind::UniqueViolation, "UNIQUE constraint failed: users.email");
        assert_eq!(error.unique_violation(), Some("users.email"));
        let error = sorted(Kind::UniqueViolation, "UNIQUE constraint failed: a.x, a.y");
        assert_eq!(error.unique_violation(), Some("a.x, a.y"));
        let error = sorted(Kind::UniqueViolation, "UNIQUE constraint failed: index 'users_email_lower'");
        assert_eq!(error.unique_violation(), Some("users_email_lower"));
    }

    #[test]
    fn errors_are_sorted_by_what_one_can_do() {
        assert!(sorted(Kind::SerializationFailure, "x").is_conflict());
        assert!(sorted(Kind::Unknown, "deadlock detected").is_conflict());
        assert!(sorted(Kind::Unknown, "database is locked").is_unavailable());
        assert!(sorted(Kind::UnableToSendCommand, "connection closed").is_unavailable());
        assert!(sorted(Kind::Unknown, "terminating connection due to administrator command").is_lost());
        let idle = "terminating connection due to idle-in-transaction timeout";
        let idle = sorted(Kind::Unknown, idle);
        assert!(idle.is_unavailable() && !idle.is_lost());
        assert!(DbError::from(Diesel::NotFound).is_not_found());
        assert!(matches!(sorted(Kind::Unknown, "syntax error"), DbError::Query(_)));
        let check = sorted(Kind::CheckViolation, "CHECK constraint failed: stock_sane");
        assert_eq!(check.check_violation(), Some("stock_sane"));
        assert!(sorted(Kind::ForeignKeyViolation, "FOREIGN KEY").is_foreign_key_violation());
    }
}
