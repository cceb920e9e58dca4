//! Converts between a problem and a gRPC status with the details of `google.rpc`.
use std::{collections::HashMap, error::Error, sync::Arc};

use prost::Message as _;
use souk_proto::google::rpc;
use tonic::{Code, Status, TimeoutExpired, metadata::AsciiMetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use super::{
    ACCEPT_ENCODING, DOMAIN, Field, NAME_BYTES, Problem, Reason, Resource, Violation, reason,
    text::{bounded, shown},
};

/// The maximum size of the lists of violations in a status, in bytes of their text (a third more as base64). A status
/// is sent in headers, and peers refuse headers of more than about 16 KiB. Every single text has a limit of its own.
/// Violations beyond this limit are omitted, and the metadata contains their number.
const LIST_BYTES: usize = 6 * 1024;
/// Metadata key for the number of omitted violations.
const OMITTED: &str = "violationsOmitted";

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = problem.code();
        let mut inner = *problem.0;
        if let Some(passed) = inner.passed {
            return passed.status();
        }
        let listed = shorten(&mut inner.fields, 0, |field| field.path.len() + field.description.len());
        let omitted_fields = listed.omitted;
        let listed = shorten(&mut inner.violations, listed.bytes, |violation| {
            violation.kind.len() + violation.subject.len() + violation.description.len()
        });
        let omitted = omitted_fields + listed.omitted;
        if omitted > 0 {
            inner.metadata.insert(OMITTED.to_owned(), omitted.to_string());
        }

        let accepted =
            inner.metadata.get(ACCEPT_ENCODING).and_then(|codings| AsciiMetadataValue::try_from(codings).ok());

        let metadata: HashMap<_, _> = inner.metadata.into_iter().collect();
        let mut details = ErrorDetails::with_error_info(reason::name(inner.reason), DOMAIN, metadata);
        if !inner.fields.is_empty() {
            let fields = inner.fields.into_iter();
            details.set_bad_request(
                fields.map(|field| FieldViolation::new(field.path, field.description)).collect::<Vec<_>>(),
            );
        }
        if !inner.violations.is_empty() {
            let violations = inner.violations.into_iter();
            details.set_precondition_failure(
                violations.map(|v| PreconditionViolation::new(v.kind, v.subject, v.description)).collect::<Vec<_>>(),
            );
        }
        if let Some(delay) = inner.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some(resource) = inner.resource {
            details.set_resource_info(resource.kind, resource.name, "", "");
        }
        if let Some(id) = inner.request_id {
            details.set_request_info(id, "");
        }

        let mut status = Status::with_error_details(code, inner.message, details);
        if let Some(accepted) = accepted {
            status.metadata_mut().insert("grpc-accept-encoding", accepted);
        }
        if let Some(cause) = inner.cause {
            status.set_source(cause);
        }
        status
    }
}

/// Converts a problem to a message, for responses that report the results of several operations.
impl From<Problem> for rpc::Status {
    fn from(problem: Problem) -> Self {
        let status = Status::from(problem);
        // The details contain the encoded status with its code and message.
        Self::decode(status.details()).unwrap_or_else(|_| Self {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

impl From<rpc::Status> for Problem {
    fn from(status: rpc::Status) -> Self {
        let details = status.encode_to_vec().into();
        Self::from_status(&Status::with_details(Code::from_i32(status.code), status.message, details))
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

impl Problem {
    /// Converts a status of one of souk's services, or of any other service. From other services it takes only the
    /// code, and the details about the client's own request. The rest may be internal, so it is kept as the cause.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let ours = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = match ours {
            Some(info) => reason::from_name(&info.reason),
            None if timed_out(status) => Some(Reason::DeadlineExceeded),
            None if status.code() == Code::InvalidArgument && details.has_bad_request_violations() => {
                Some(Reason::FieldInvalid)
            }
            None => None,
        }
        .unwrap_or_else(|| reason::of_code(status.code()));

        let speaks = reason != Reason::Internal && (ours.is_some() || is_about_the_request(status.code()));
        let message = if speaks && !status.message().is_empty() { status.message() } else { neutral(reason) };
        let mut problem = Problem::new(reason, message);
        let inner = &mut problem.0;

        if let Some(info) = ours.filter(|_| speaks) {
            inner.metadata.extend(info.metadata.iter().map(|(key, value)| (bounded(&**key, NAME_BYTES), shown(value))));
            inner.resource = details
                .resource_info()
                .map(|resource| Resource::new(&*resource.resource_type, &*resource.resource_name));
        }
        if ours.is_some() {
            let request = details.request_info();
            inner.request_id = request.map(|request| request.request_id.clone());
        }
        if let Some(bad) = details.bad_request().filter(|_| speaks) {
            let fields = bad.field_violations.iter();
            inner.fields.extend(fields.map(|field| Field::new(&*field.field, &*field.description)));
        }
        if let Some(failure) = details.precondition_failure().filter(|_| speaks) {
            let violations = failure.violations.iter();
            inner
                .violations
                .extend(violations.map(|found| Violation::new(&*found.r#type, &*found.subject, &*found.description)));
        }
        inner.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        if ours.is_none() || status.source().is_some() {
            inner.cause = Some(Arc::new(status.clone()));
        }
        problem
    }
}

/// A message that reveals nothing, for a reason.
pub(super) fn neutral(reason: Reason) -> &'static str {
    match reason {
        Reason::Internal | Reason::Unspecified => "something went wrong in souk; the request id finds it in the logs",
        Reason::ServiceUnavailable => "a part of souk cannot be reached at the moment: try again",
        Reason::DeadlineExceeded => "the work took longer than allowed",
        Reason::Cancelled => "the request was cancelled before its answer",
        Reason::Overloaded => "the service has more work than it can take: try again later",
        Reason::BodyTooLarge => "the request is larger than the service takes",
        other => reason::facts(other).title,
    }
}

/// True if the message of a foreign status with this code is about the caller's request, not about internals of the
/// called service.
fn is_about_the_request(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted
    )
}

/// True if the status is a timeout of tonic itself, which has the code CANCELLED.
fn timed_out(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    status.code() == Code::Cancelled && status.message() == TimeoutExpired(()).to_string()
}

/// The size of a list after it was shortened.
struct Listed {
    bytes: usize,
    omitted: usize,
}

/// Shortens a list so that its bytes, plus the bytes already `spent`, do not exceed the limit.
fn shorten<T>(list: &mut Vec<T>, spent: usize, size: impl Fn(&T) -> usize) -> Listed {
    // Bytes of tags and lengths in the encoding.
    const OVERHEAD: usize = 12;
    let before = list.len();
    let mut bytes = spent;
    let keep = list
        .iter()
        .take_while(|item| {
            bytes += size(item) + OVERHEAD;
            bytes <= LIST_BYTES
        })
        .count();
    list.truncate(keep);
    Listed { bytes, omitted: before - keep }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn full() -> Problem {
        Problem::new(Reason::OutOfStock, "not enough of products/prd_a")
            .field("items[0].quantity", "must be at most 3")
            .violation("STOCK", "products/prd_a", "5 wanted, 3 available")
            .metadata("available", 3)
            .retry_after(Duration::from_millis(1500))
            .resource("souk/Product", "products/prd_a")
            .request_id("req-1")
    }

    #[test]
    fn a_problem_is_the_same_after_a_status() {
        let status = Status::from(full());
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("OUT_OF_STOCK", "souk"));

        let back = Problem::from_status(&status);
        assert_eq!(back.reason(), Reason::OutOfStock);
        assert_eq!(back.message(), full().message());
        assert_eq!(back.field_violations(), full().field_violations());
        assert_eq!(back.violations(), full().violations());
        assert_eq!(back.get_metadata("available"), Some("3"));
        assert_eq!(back.retry_delay(), Some(Duration::from_millis(1500)));
        assert_eq!(back.about(), full().about());
        assert_eq!(back.0.request_id.as_deref(), Some("req-1"));
        assert!(back.source().is_none());
        let message = rpc::Status::from(full());
        assert_eq!((message.code, message.message.as_str()), (Code::FailedPrecondition as i32, full().message()));
        assert_eq!(Status::from(Problem::from(message)).details(), status.details());
    }

    #[test]
    fn the_cause_stays_in_the_process() {
        let secret = "password=hunter2 at 10.0.0.7";
        let status = Status::from(Problem::internal().caused_by(secret));
        assert_eq!(status.source().unwrap().to_string(), secret);
        assert!(!status.message().contains("hunter2"));
        assert!(!String::from_utf8_lossy(status.details()).contains("hunter2"));
        // After the problem is passed on, the cause is still available for the log.
        let again = Status::from(Problem::from_status(&status));
        assert!(super::super::chain(&again).contains("hunter2"));
        assert!(!String::from_utf8_lossy(again.details()).contains("hunter2"));
    }

    #[test]
    fn messages_of_foreign_errors_do_not_leak() {
        for code in
            [Code::Internal, Code::Unknown, Code::DataLoss, Code::Unavailable, Code::Cancelled, Code::PermissionDenied]
        {
            let problem = Problem::from_status(&Status::new(code, "tcp connect error 10.0.0.7:5432"));
            let json = problem.to_json("r", "/v1/orders").to_string();
            assert!(!json.contains("10.0.0.7"), "{code:?}: {json}");
            let status = Status::from(problem);
            assert!(!status.message().contains("10.0.0.7"), "{code:?}");
            assert!(!String::from_utf8_lossy(status.details()).contains("10.0.0.7"), "{code:?}");
            assert!(super::super::chain(&status).contains("10.0.0.7"), "{code:?}: the log has it");
        }
        let kept = Problem::from_status(&Status::not_found("no such thing"));
        assert_eq!((kept.reason(), kept.message()), (Reason::ResourceNotFound, "no such thing"));
    }

    #[test]
    fn an_internal_error_of_souk_has_a_neutral_message_too() {
        let details = ErrorDetails::with_error_info("INTERNAL", DOMAIN, [("a".to_owned(), "b".to_owned())]);
        let status = Status::with_error_details(Code::Internal, "relation users does not exist", details);
        assert_eq!(Problem::from_status(&status).message(), neutral(Reason::Internal));
    }

    #[test]
    fn a_reason_of_a_newer_souk_falls_back_to_its_code() {
        let details = ErrorDetails::with_error_info("SOLAR_FLARE", DOMAIN, [("a".to_owned(), "b".to_owned())]);
        let status = Status::with_error_details(Code::Aborted, "flare", details);
        let problem = Problem::from_status(&status);
        assert_eq!((problem.reason(), problem.message()), (Reason::Conflict, "flare"));
        assert_eq!(problem.get_metadata("a"), Some("b"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is what tonic itself calls")]
    fn a_timeout_of_tonic_becomes_deadline_exceeded() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(Problem::from_status(&status).reason(), Reason::DeadlineExceeded);
    }

    #[test]
    fn invalid_details_cause_no_panic() {
        let status = Status::with_details(Code::Aborted, "x", vec![0xff; 40].into());
        assert_eq!(Problem::from_status(&status).reason(), Reason::Conflict);
    }

    #[test]
    fn a_thousand_errors_still_fit_into_a_header() {
        let fields = (0..1000).map(|n| (format!("items[{n}].quantity"), "must be at least 1"));
        let mut problem = Problem::fields(fields);
        for n in 0..1000 {
            problem = problem.violation("STOCK", format!("products/prd_{n}"), "none left");
        }
        let mut long = Problem::new(Reason::FieldInvalid, "€".repeat(5000));
        long.0.fields = problem.0.fields;
        long.0.violations = problem.0.violations;
        let status = Status::from(long);
        assert!(status.details().len() * 4 / 3 < 12 * 1024, "{}", status.details().len());
        assert!(status.message().len() < 1100);
        let back = Problem::from_status(&status);
        let listed = back.field_violations().len() + back.violations().len();
        let omitted: usize = back.get_metadata(OMITTED).unwrap().parse().unwrap();
        assert_eq!(listed + omitted, 2000);
        assert!(back.field_violations().len() > 50);
    }
}
