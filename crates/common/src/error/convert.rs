//! Converts errors that mean the same in every service to problems. Errors of ids and money do not know which field of
//! the request they belong to: for those, use [`Problem::invalid`] with the field's path.
use souk_contract::{CheckError, validate::Violation};

use crate::page::{PageError, filter::FilterError, order::OrderError};

use super::{Problem, Reason};

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
    use super::*;

    #[test]
    fn errors_of_lists_name_their_field() {
        let problem = Problem::from(PageError::Malformed);
        assert_eq!(problem.reason(), Reason::PageTokenInvalid);
        assert_eq!(problem.field_violations()[0].path, "page_token");
        let problem = Problem::from(crate::page::filter::parse("nope = 1", &[]).unwrap_err());
        assert_eq!((problem.reason(), problem.field_violations()[0].path.as_str()), (Reason::FieldInvalid, "filter"));
    }
}
