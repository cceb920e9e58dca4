//! Database errors, sorted by how to react to them.

use std::borrow::Cow;

use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};

/// A failure of the database. Its message is for logs: it may name tables, so clients never see it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// The database cannot be reached, cannot store anything, or took too long. The same request may succeed later.
    #[error("the database is unavailable: {reason}")]
    Unavailable {
        /// The kind of trouble.
        trouble: Trouble,
        /// A description of the trouble.
        reason: Cow<'static, str>,
        /// The driver's error, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Transactions collided more often than `write!` retries. Try again later.
    #[error("concurrent changes kept colliding")]
    Conflict(#[source] Diesel),
    /// A value that must be unique exists already.
    #[error("unique constraint {constraint:?} violated")]
    Unique {
        /// On PostgreSQL: the constraint's name. On SQLite: the columns, as `table.column, table.column`, or the name
        /// of an index of expressions.
        constraint: String,
        /// The driver's error.
        #[source]
        source: Diesel,
    },
    /// The settings are wrong. The text says what would be right.
    #[error("database url {0}")]
    Config(String),
    /// A migration failed.
    #[error("migration failed")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database has tables that no migration of this version upgrades.
    #[error(
        "the database was made by an older, unreleased build of souk, or by another service: it has migration {found} \
         but not {baseline}, and nothing upgrades it. Use an empty database (on SQLite, move the file away)"
    )]
    NotOurs {
        /// The service's first migration, which is missing.
        baseline: String,
        /// A migration that the database has.
        found: String,
    },
    /// Any other error, which is a bug.
    #[error("query failed")]
    Query(#[source] Diesel),
}

impl DbError {
    /// The violated unique constraint, if there is one: on PostgreSQL its name (`users_email_key`), on SQLite its
    /// columns (`users.email`). A caller matches both: `Some("users_email_key" | "users.email") => …`.
    #[must_use]
    pub fn unique_violation(&self) -> Option<&str> {
        match self {
            Self::Unique { constraint, .. } => Some(constraint),
            _ => None,
        }
    }

    /// The name of the violated `CHECK` constraint, if there is one.
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

    /// True if a foreign key was violated.
    #[must_use]
    pub fn is_foreign_key_violation(&self) -> bool {
        matches!(self, Self::Query(Diesel::DatabaseError(Kind::ForeignKeyViolation, _)))
    }

    /// True if a query that must find a row found none.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Query(Diesel::NotFound))
    }

    /// True if the database could not be reached, was full or took too long.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// True if the error only means that an earlier statement of the transaction failed (25P02).
    #[must_use]
    pub fn is_aftermath(&self) -> bool {
        use diesel::result::Error;
        let Self::Query(Error::DatabaseError(_, what)) = self else { return false };
        what.message().starts_with("current transaction is aborted")
    }

    /// True if concurrent transactions collided too often.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Why the database is unavailable, if it is.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unavailable { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }

    /// True if the connection is lost. Its commit may have taken effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.trouble() == Some(Trouble::Lost)
    }

    /// True if the same request may succeed at once on another connection.
    pub(super) fn is_of_the_connection(&self) -> bool {
        matches!(self.trouble(), Some(Trouble::Lost | Trouble::ReadOnly | Trouble::Outdated))
    }

    /// True if the connection must not be used again. An unknown error may be one that persists for the life of a
    /// connection, for example because a type was recreated.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::Unavailable { trouble: Trouble::NoMemory, .. } => true,
            Self::Query(Diesel::DatabaseError(Kind::Unknown, _)) => !self.is_aftermath(),
            _ => self.is_of_the_connection(),
        }
    }

    /// True if another process holds the SQLite file.
    pub(super) fn is_busy(&self) -> bool {
        self.trouble() == Some(Trouble::Held)
    }

    pub(super) fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable { trouble: Trouble::Unreachable, reason: reason.into(), source: None }
    }

    pub(super) fn unavailable_because(
        reason: impl Into<Cow<'static, str>>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::of(Trouble::Unreachable, reason, source)
    }

    pub(super) fn read_only() -> Self {
        Self::Unavailable { trouble: Trouble::ReadOnly, reason: READ_ONLY.into(), source: None }
    }

    pub(super) fn lost(reason: &'static str) -> Self {
        Self::Unavailable { trouble: Trouble::Lost, reason: reason.into(), source: None }
    }

    pub(super) fn of(
        trouble: Trouble,
        reason: impl Into<Cow<'static, str>>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable { trouble, reason: reason.into(), source: Some(Box::new(source)) }
    }
}

/// Why a database is unavailable, sorted by how to react.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No connection can be made, or none is free.
    Unreachable,
    /// The connection was lost. Its commit may have taken effect.
    Lost,
    /// This server accepts no writes, such as a former primary after a failover. Nothing was written.
    ReadOnly,
    /// The server has changed, so the connection's prepared statements no longer fit. Nothing was done.
    Outdated,
    /// The wait for a lock or an idle transaction took too long.
    TooLong,
    /// A statement exceeded its time limit, or was cancelled. It had no effect, and the connection can be used again.
    CutOff,
    /// Another process holds the SQLite file.
    Held,
    /// The disk has no space left.
    DiskFull,
    /// The disk reports errors.
    DiskFails,
    /// The server or SQLite has no memory left.
    NoMemory,
}

impl Trouble {
    /// True if nothing can be stored until somebody fixes the cause.
    #[must_use]
    pub fn stops_writes(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::DiskFails | Self::NoMemory)
    }

    /// The text that clients see.
    #[must_use]
    pub fn for_clients(self) -> &'static str {
        match self {
            Self::Unreachable | Self::Lost => "cannot be reached",
            Self::ReadOnly => "takes no changes",
            Self::DiskFull | Self::DiskFails => "cannot store anything",
            Self::Outdated | Self::TooLong | Self::CutOff | Self::Held | Self::NoMemory => "is too busy",
        }
    }
}

const LOST: &str = "connection lost";
const READ_ONLY: &str = "the server takes no writes";

/// Sorts the driver's errors.
impl From<Diesel> for DbError {
    fn from(error: Diesel) -> Self {
        let Diesel::DatabaseError(kind, information) = &error else {
            return match error {
                // The transaction manager does not know the state: the connection died during BEGIN or COMMIT.
                Diesel::BrokenTransactionManager => Self::of(Trouble::Lost, LOST, error),
                Diesel::RollbackErrorOnCommit { commit_error, .. } => Self::from(*commit_error),
                error => Self::Query(error),
            };
        };
        match kind {
            Kind::SerializationFailure => Self::Conflict(error),
            Kind::UniqueViolation => Self::Unique { constraint: unique_constraint(&**information), source: error },
            Kind::UnableToSendCommand | Kind::ClosedConnection => Self::of(Trouble::Lost, LOST, error),
            Kind::ReadOnlyTransaction => Self::of(Trouble::ReadOnly, READ_ONLY, error),
            // For other errors diesel keeps neither the SQLSTATE nor SQLite's code, so they are sorted by their texts.
            Kind::Unknown => match by_message(information.message(), information.hint()) {
                Some(Sort::Conflict) => Self::Conflict(error),
                Some(Sort::Unavailable(trouble, reason)) => Self::of(trouble, reason, error),
                None => Self::Query(error),
            },
            _ => Self::Query(error),
        }
    }
}

/// The trouble in an error's chain of causes, for example when a migration failed. Causes of migrations are texts:
/// `Failed to run NAME with: MESSAGE`.
pub(super) fn trouble_within(error: &(dyn std::error::Error + 'static)) -> Option<Trouble> {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let message = text.rsplit_once(" with: ").map_or(text.as_str(), |(_, message)| message);
        if let Some(Sort::Unavailable(trouble, _)) = by_message(message, None) {
            return Some(trouble);
        }
        next = error.source();
    }
    None
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
    Unavailable(Trouble, &'static str),
}

/// Sorts by the server's English text. `Db::connect` warns of a PostgreSQL server with another language.
fn by_message(message: &str, hint: Option<&str>) -> Option<Sort> {
    use Trouble::{CutOff, DiskFails, DiskFull, Held, Lost, NoMemory, Outdated, ReadOnly, TooLong, Unreachable};
    let starts = |texts: &[&str]| texts.iter().any(|text| message.starts_with(text));
    let ends = |texts: &[&str]| texts.iter().any(|text| message.ends_with(text));
    let (trouble, reason) = match message {
        // 40P01
        "deadlock detected" => return Some(Sort::Conflict),
        // 57014, 55P03
        "canceling statement due to statement timeout" => (CutOff, "statement timeout"),
        "canceling statement due to lock timeout" => (TooLong, "lock timeout"),
        "canceling statement due to user request" => (CutOff, "statement cancelled"),
        // 0A000, for a statement that was prepared before a migration changed its result type.
        "cached plan must not change result type" => (Outdated, "prepared statements are outdated"),
        // 26000, 42P05: a pooler has switched to another connection to the server.
        _ if message.starts_with("prepared statement \"") && ends(&["\" does not exist", "\" already exists"]) => {
            (Outdated, "prepared statements are lost")
        }
        // SQLITE_BUSY, after the busy timeout: another process holds the file.
        "database is locked" => (Held, "locked by another process"),
        // SQLITE_FULL, SQLITE_IOERR, SQLITE_READONLY, SQLITE_CANTOPEN
        "database or disk is full" => (DiskFull, "disk full"),
        "disk I/O error" => (DiskFails, "disk I/O error"),
        "attempt to write a readonly database" => (ReadOnly, "the file can only be read"),
        "unable to open database file" => (DiskFails, "the file cannot be opened"),
        // 53200; SQLITE_NOMEM
        "out of memory" | "out of shared memory" => (NoMemory, "out of memory"),
        // 53100. The hint is present if a file was written in part.
        _ if ends(&["No space left on device", "Disk quota exceeded"]) || hint == Some("Check free disk space.") => {
            (DiskFull, "disk full")
        }
        // 58030
        _ if message.ends_with("Input/output error") => (DiskFails, "disk I/O error"),
        // 25P03, 25P04
        _ if starts(&[
            "terminating connection due to idle-in-transaction",
            "terminating connection due to transaction timeout",
        ]) =>
        {
            (TooLong, "transaction left idle")
        }
        // 57P01, 57P02, 57P04, 57P05
        _ if message.starts_with("terminating connection") => (Lost, LOST),
        // 08P01 of PgBouncer that has lost its server.
        "server conn crashed?" | "server closed the connection unexpectedly" => (Lost, LOST),
        // 08P01 of PgBouncer that has no server connection for this client.
        _ if starts(&["query_wait_timeout", "pgbouncer cannot connect to server", "server login has been failing"]) => {
            (Unreachable, "the pooler has no connection to the server")
        }
        // 57P03, 53300
        _ if message.starts_with("the database system is") => (Unreachable, "server not up"),
        _ if starts(&[
            "sorry, too many clients already",
            "remaining connection slots are reserved",
            "too many connections for ",
        ]) =>
        {
            (Unreachable, "server has no free connection")
        }
        _ => return None,
    };
    Some(Sort::Unavailable(trouble, reason))
}

/// The error of a body of `read!`, `snapshot!` or `write!`: a database error, or a violated rule of the domain. The
/// macros use [`Failure::db`] to decide whether to retry the transaction.
///
/// ```
/// # use souk_store::db::{DbError, Failure};
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
    /// The database error inside, if there is one. It must be the original error: an error that is hidden here is not
    /// retried.
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
    fn errors_are_classified_by_what_the_caller_can_do() {
        assert!(sorted(Kind::SerializationFailure, "x").is_conflict());
        assert!(sorted(Kind::Unknown, "deadlock detected").is_conflict());
        assert!(sorted(Kind::Unknown, "database is locked").is_unavailable());
        assert!(sorted(Kind::UnableToSendCommand, "connection closed").is_unavailable());
        let idle = "terminating connection due to idle-in-transaction timeout";
        assert_eq!(sorted(Kind::Unknown, idle).trouble(), Some(Trouble::TooLong));
        assert!(DbError::from(Diesel::NotFound).is_not_found());
        assert!(matches!(sorted(Kind::Unknown, "syntax error"), DbError::Query(_)));
        let check = sorted(Kind::CheckViolation, "CHECK constraint failed: stock_sane");
        assert_eq!(check.check_violation(), Some("stock_sane"));
        assert!(sorted(Kind::ForeignKeyViolation, "FOREIGN KEY").is_foreign_key_violation());
    }

    /// The texts are those of PostgreSQL 15 and 17, PgBouncer and SQLite.
    #[test]
    fn database_problems_are_recognised_by_their_texts() {
        let lost = [
            "terminating connection due to administrator command",
            "terminating connection because of crash of another server process",
            "terminating connection due to idle-session timeout",
            "server conn crashed?",
        ];
        let outdated = [
            "cached plan must not change result type",
            "prepared statement \"s17\" does not exist",
            "prepared statement \"s17\" already exists",
        ];
        let full = [
            "database or disk is full",
            "could not extend file \"base/5/16384\": No space left on device",
            "could not write to file \"pg_wal/xlogtemp.42\": No space left on device",
        ];
        let failing = [
            "disk I/O error",
            "unable to open database file",
            "could not read block 7 in file \"base/5/16384\": Input/output error",
        ];
        let none = ["out of memory", "out of shared memory"];
        let late = ["canceling statement due to lock timeout"];
        let cut_off = ["canceling statement due to user request", "canceling statement due to statement timeout"];
        let read_only = ["attempt to write a readonly database"];
        let unreachable = [
            "the database system is shutting down",
            "sorry, too many clients already",
            "query_wait_timeout",
            "pgbouncer cannot connect to server",
        ];
        let cases: [(Trouble, &[&str]); 9] = [
            (Trouble::Lost, &lost),
            (Trouble::Outdated, &outdated),
            (Trouble::DiskFull, &full),
            (Trouble::DiskFails, &failing),
            (Trouble::NoMemory, &none),
            (Trouble::TooLong, &late),
            (Trouble::CutOff, &cut_off),
            (Trouble::ReadOnly, &read_only),
            (Trouble::Unreachable, &unreachable),
        ];
        for (trouble, texts) in cases {
            for text in texts {
                assert_eq!(sorted(Kind::Unknown, text).trouble(), Some(trouble), "{text}");
            }
        }
        let read_only = sorted(Kind::ReadOnlyTransaction, "cannot execute INSERT in a read-only transaction");
        assert_eq!(read_only.trouble(), Some(Trouble::ReadOnly));
        // An unknown error is a bug, and its connection is not used again.
        let unknown = sorted(Kind::Unknown, "cache lookup failed for type 16390");
        assert!(matches!(unknown, DbError::Query(_)) && unknown.spoils_connection());
        assert!(!sorted(Kind::CheckViolation, "stock_sane").spoils_connection());
        assert!(!sorted(Kind::Unknown, "deadlock detected").spoils_connection());
    }

    #[test]
    fn a_database_problem_is_found_among_the_causes_of_an_error() {
        let full = Diesel::DatabaseError(Kind::Unknown, Box::new("database or disk is full".to_owned()));
        assert_eq!(trouble_within(&DbError::Query(full)), Some(Trouble::DiskFull));
        let migration = DbError::Migration("Failed to run 0001_jobs with: disk I/O error".into());
        assert_eq!(trouble_within(&migration), Some(Trouble::DiskFails));
        assert_eq!(trouble_within(&DbError::Config("is wrong".into())), None);
    }
}
