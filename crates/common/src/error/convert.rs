//! Converts errors that mean the same in every service to problems. Ids and money are in some field of the request,
//! which their errors don't know: [`Problem::invalid`] takes its path.
use std::time::Duration;

use souk_contract::{CheckError, validate::Violation};

use crate::{
    db::{DbError, Trouble},
    page::{PageError, filter::FilterError, order::OrderError},
};

use super::{Problem, Reason};

/// Conflicts are over soon: a retry after this time hardly meets the same ones.
const RETRY_CONFLICT: Duration = Duration::from_millis(100);

impl From<DbError> for Problem {
    /// An unexpected unique constraint violation is a bug, and so is everything else that a retry does not fix.
    fn from(error: DbError) -> Self {
        let problem = match &error {
            DbError::Unavailable { .. } => Self::database("the database", &error),
            DbError::Conflict(_) => {
                Self::new(Reason::Conflict, "concurrent changes kept colliding: try again").retry_after(RETRY_CONFLICT)
            }
            _ => Self::internal(),
        };
        problem.caused_by(error)
    }
}

impl Problem {
    /// A database that is unavailable, such as "the orders' database", and in which way. A statement that was cut off
    /// has used up its time: the same again would take as long.
    pub fn database(what: impl std::fmt::Display, error: &DbError) -> Self {
        match error.trouble().unwrap_or(Trouble::Unreachable) {
            Trouble::CutOff => {
                Self::new(Reason::DeadlineExceeded, format!("{what} took longer for this than a statement may"))
            }
            trouble => Self::unavailable_since(what, trouble.for_clients()),
        }
    }
}

impl From<Vec<Violation>> for Problem {
    fn from(violations: Vec<Violation>) -> Self {
        Self::fields(violations.into_iter().map(|violation| (violation.field_path, violation.message)))
    }
}

impl From<CheckError> for Problem {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Violations(violations) => violations.into(),
            CheckError::Contract(error) => Self::internal().caused_by(error),
        }
    }
}

impl From<PageError> for Problem {
    fn from(error: PageError) -> Self {
        let text = error.to_string();
        Self::new(Reason::PageTokenInvalid, format!("page_token {text}")).field("page_token", text)
    }
}

impl From<FilterError> for Problem {
    fn from(error: FilterError) -> Self {
        Self::invalid("filter", error.to_string())
    }
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        Self::invalid("order_by", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};

    use super::*;
    use crate::error::chain;

    fn of(kind: DatabaseErrorKind) -> Problem {
        DbError::from(Diesel::DatabaseError(kind, Box::new("relation users".to_owned()))).into()
    }

    #[test]
    fn a_databases_failures_say_nothing_of_it_but_what_to_do() {
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
    fn what_ails_a_database_is_told_in_a_few_words() {
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

    #[test]
    fn errors_of_lists_name_their_field() {
        let problem = Problem::from(PageError::Malformed);
        assert_eq!(problem.reason(), Reason::PageTokenInvalid);
        assert_eq!(problem.field_violations()[0].path, "page_token");
        let problem = Problem::from(crate::page::filter::parse("nope = 1", &[]).unwrap_err());
        assert_eq!((problem.reason(), problem.field_violations()[0].path.as_str()), (Reason::FieldInvalid, "filter"));
    }
}
