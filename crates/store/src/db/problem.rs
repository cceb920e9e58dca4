//! Converts database errors to problems, in the same way in every service.

use std::{fmt, time::Duration};

use souk_common::error::{Problem, Reason};

use super::{DbError, Trouble};

/// The delay before a retry. Collisions are short, so a retry after this time is unlikely to collide again.
const RETRY_CONFLICT: Duration = Duration::from_millis(100);

impl From<DbError> for Problem {
    /// An unexpected violation of a unique constraint is a bug, and so is every other error that a retry does not fix.
    fn from(error: DbError) -> Self {
        let problem = match &error {
            DbError::Unavailable { .. } => error.problem("the database"),
            DbError::Conflict(_) => {
                Self::new(Reason::Conflict, "concurrent changes kept colliding: try again").retry_after(RETRY_CONFLICT)
            }
            _ => Self::internal(),
        };
        problem.caused_by(error)
    }
}

impl DbError {
    /// The problem for an unavailable database. `what` names the database, for example "the orders' database". A
    /// statement that was cancelled by its time limit is not worth a retry: it would take as long again.
    pub fn problem(&self, what: impl fmt::Display) -> Problem {
        match self.trouble().unwrap_or(Trouble::Unreachable) {
            Trouble::CutOff => {
                Problem::new(Reason::DeadlineExceeded, format!("{what} took longer for this than a statement may"))
            }
            trouble => Problem::unavailable_since(what, trouble.for_clients()),
        }
    }
}

#[cfg(test)]
mod tests {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    use souk_common::error::chain;

    use super::*;

    fn of(kind: DatabaseErrorKind) -> Problem {
        DbError::from(Diesel::DatabaseError(kind, Box::new("relation users".to_owned()))).into()
    }

    #[test]
    fn database_errors_reveal_no_details_and_say_what_to_do() {
        let cases = [
            (DatabaseErrorKind::ClosedConnection, Reason::ServiceUnavailable),
            (DatabaseErrorKind::SerializationFailure, Reason::Conflict),
            (DatabaseErrorKind::UniqueViolation, Reason::Internal),
            (DatabaseErrorKind::CheckViolation, Reason::Internal),
        ];
        for (kind, reason) in cases {
            let problem = of(kind);
            assert_eq!(problem.reason(), reason);
            assert!(!problem.message().contains("users"), "{problem}");
            assert!(chain(&problem).contains("users"), "{}", chain(&problem));
            assert_eq!(problem.retry_delay().is_some(), reason != Reason::Internal);
        }
    }

    #[test]
    fn database_problems_have_a_short_description() {
        let cases = [
            ("could not extend file \"base/1/2\": No space left on device", "cannot store anything"),
            ("canceling statement due to lock timeout", "is too busy"),
            ("terminating connection due to administrator command", "cannot be reached"),
        ];
        for (text, told) in cases {
            let error = Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
            let problem = Problem::from(DbError::from(error));
            assert_eq!(problem.reason(), Reason::ServiceUnavailable);
            assert_eq!(problem.message(), format!("the database {told} at the moment: try again"));
        }
        let cut_off = "canceling statement due to statement timeout".to_owned();
        let error = Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new(cut_off));
        assert_eq!(Problem::from(DbError::from(error)).reason(), Reason::DeadlineExceeded);
    }
}
