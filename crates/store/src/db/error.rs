//! Errors of a database, by how to react to them.

use std::borrow::Cow;

use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};

/// A failure of the database. Its message is for logs: it may name tables, so it is never shown to clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// It cannot be reached, cannot store anything, or took too long. The same may work later.
    #[error("the database is unavailable: {reason}")]
    Unavailable {
        /// What kind of trouble it is.
        trouble: Trouble,
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
    /// The database has tables that no migration of this version upgrades.
    #[error(
        "the database was made by an older, unreleased build of souk, or by another service: it has migration {found} \
         but not {baseline}, and nothing upgrades it. Use an empty database (on SQLite, move the file away)"
    )]
    NotOurs {
        /// The service's first migration, which is missing.
        baseline: String,
        /// A migration that is there.
        found: String,
    },
    /// Anything else: a bug.
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

    /// Whether the database could not be reached, was full or took too long.
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

    /// What kind of trouble makes it unavailable, if it is.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unavailable { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }

    /// Whether the connection is lost. Its commit may have taken effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.trouble() == Some(Trouble::Lost)
    }

    /// Whether another connection may do at once what this one could not.
    pub(super) fn is_of_the_connection(&self) -> bool {
        matches!(self.trouble(), Some(Trouble::Lost | Trouble::ReadOnly | Trouble::Outdated))
    }

    /// Whether the connection must not be used again. A failure that nobody here knows may be one of those that a
    /// connection has for as long as it lives, such as a type that was recreated under it.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::Unavailable { trouble: Trouble::NoMemory, .. } => true,
            Self::Query(Diesel::DatabaseError(Kind::Unknown, _)) => !self.is_aftermath(),
            _ => self.is_of_the_connection(),
        }
    }

    /// Whether another process holds the SQLite file.
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

/// Why a database is unavailable, by what one can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No connection can be had.
    Unreachable,
    /// The connection was lost. Its commit may have taken effect.
    Lost,
    /// This server accepts no writes, such as a former primary after a failover. Nothing was written.
    ReadOnly,
    /// The connection's prepared statements do not fit the server any more. Nothing happened.
    Outdated,
    /// A lock or an idle transaction took too long.
    TooLong,
    /// A statement ran into its time limit, or was cancelled. It did nothing, and the connection is as good as before.
    CutOff,
    /// Another process holds the SQLite file.
    Held,
    /// The disk is full.
    DiskFull,
    /// The disk fails.
    DiskFails,
    /// There is no memory.
    NoMemory,
}

impl Trouble {
    /// Whether it keeps the database from storing anything, until somebody does something about it.
    #[must_use]
    pub fn stops_writes(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull | Self::DiskFails | Self::NoMemory)
    }

    /// What clients are told about it.
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
                // The transaction manager has lost track: the connection died within BEGIN or COMMIT.
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
            // diesel keeps no SQLSTATE for the rest, nor SQLite's code, so their texts must do.
            Kind::Unknown => match by_message(information.message(), information.hint()) {
                Some(Sort::Conflict) => Self::Conflict(error),
                Some(Sort::Unavailable(trouble, reason)) => Self::of(trouble, reason, error),
                None => Self::Query(error),
            },
            _ => Self::Query(error),
        }
    }
}

/// The trouble that stands somewhere among an error's causes, as where a migration failed. Those of migrations are texts:
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

/// Sorts by the server's English text. `Db::connect` warns of a PostgreSQL that speaks another language.
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
        // 0A000, for a statement that was prepared before a migration changed what it gives.
        "cached plan must not change result type" => (Outdated, "prepared statements are outdated"),
        // 26000, 42P05: a pooler between us and the server has given us another connection to it.
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
        // 53100; the hint is there where a file was written in part.
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
        // 08P01 of PgBouncer, which has lost its server.
        "server conn crashed?" | "server closed the connection unexpectedly" => (Lost, LOST),
        // 08P01 of PgBouncer, which has no server connection for us.
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

/// The error of a body of `read!`, `snapshot!` or `write!`: a failure of the database, or a refusal of the domain. The
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
        let idle = "terminating connection due to idle-in-transaction timeout";
        assert_eq!(sorted(Kind::Unknown, idle).trouble(), Some(Trouble::TooLong));
        assert!(DbError::from(Diesel::NotFound).is_not_found());
        assert!(matches!(sorted(Kind::Unknown, "syntax error"), DbError::Query(_)));
        let check = sorted(Kind::CheckViolation, "CHECK constraint failed: stock_sane");
        assert_eq!(check.check_violation(), Some("stock_sane"));
        assert!(sorted(Kind::ForeignKeyViolation, "FOREIGN KEY").is_foreign_key_violation());
    }

    /// Texts as PostgreSQL 15 and 17, PgBouncer and SQLite have them.
    #[test]
    fn troubles_are_known_by_their_texts() {
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
    fn a_trouble_is_found_among_causes() {
        let full = Diesel::DatabaseError(Kind::Unknown, Box::new("database or disk is full".to_owned()));
        assert_eq!(trouble_within(&DbError::Query(full)), Some(Trouble::DiskFull));
        let migration = DbError::Migration("Failed to run 0001_jobs with: disk I/O error".into());
        assert_eq!(trouble_within(&migration), Some(Trouble::DiskFails));
        assert_eq!(trouble_within(&DbError::Config("is wrong".into())), None);
    }
}
