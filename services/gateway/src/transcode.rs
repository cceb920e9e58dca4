//! Converts JSON and queries to messages and back ([`souk_transcode::message`]), with errors as souk's problems.

use prost_reflect::DynamicMessage;
use souk_common::error::{Problem, Reason};
pub use souk_transcode::message::*;

/// The problem for a request that cannot be converted to a message: `MALFORMED_REQUEST` or `UNKNOWN_FIELD`, with every
/// invalid field.
pub fn problem(error: BindError) -> Problem {
    let unknown = matches!(&error, BindError::Fields(found) if found.first().is_some_and(|first| first.unknown));
    let reason = if unknown { Reason::UnknownField } else { Reason::MalformedRequest };
    let mut problem = Problem::new(reason, error.to_string());
    if let BindError::Fields(found) = error {
        for violation in found.list() {
            problem = problem.field(&violation.path, &violation.detail);
        }
    }
    problem
}

/// Sets a field from a header, if the request leaves the field empty.
///
/// # Errors
/// The request sets the field to another value.
pub fn fill(message: &mut DynamicMessage, field: &str, header: &str, value: &str) -> Result<(), Problem> {
    souk_transcode::message::fill(message, field, header, value).map_err(|error| {
        Problem::new(Reason::MalformedRequest, error.to_string())
            .field(error.field, format!("differs from the header {header}"))
    })
}

#[cfg(test)]
mod tests {
    use souk_transcode::message::violation::Violations;

    use super::*;

    #[test]
    fn an_unknown_field_gives_the_reason() {
        let mut found = Violations::default();
        found.wrong("a", "must be a string");
        assert_eq!(problem(BindError::NoBody).reason(), Reason::MalformedRequest);
        found.unknown("b", "is not a field");
        let problem = problem(BindError::Fields(found));
        assert_eq!(problem.reason(), Reason::UnknownField);
        assert_eq!(problem.message(), "b is not a field (and 1 more)");
        assert_eq!(problem.field_violations().len(), 2);
    }
}
