//! The table of reasons: gRPC code, HTTP status and title.
use souk_proto::common::v1::ErrorReason as Reason;
use tonic::Code;

const PREFIX: &str = "ERROR_REASON_";

/// The properties that follow from a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub code: Code,
    pub http_status: u16,
    /// A short explanation for people, the same for every problem of the reason.
    pub title: &'static str,
}

/// The properties of a reason. An unspecified reason is a bug.
pub(super) fn facts(reason: Reason) -> Facts {
    use Reason as R;
    let (code, title) = match reason {
        R::FieldInvalid => (Code::InvalidArgument, "A field is not valid"),
        R::MalformedRequest => (Code::InvalidArgument, "The request cannot be read"),
        R::UnknownField => (Code::InvalidArgument, "The request has an unknown field"),
        R::IdempotencyKeyReused => (Code::InvalidArgument, "The idempotency key was used for another request"),
        R::PageTokenInvalid => (Code::InvalidArgument, "The page token is not valid"),
        R::MediaTypeUnsupported => (Code::InvalidArgument, "The media type is not supported"),
        R::NotAcceptable => (Code::InvalidArgument, "The answer is not in a media type that is accepted"),
        R::CursorExpired => (Code::OutOfRange, "The cursor is too old"),
        R::WebhookSignatureInvalid => (Code::InvalidArgument, "The webhook's signature is not valid"),
        R::TokenMissing => (Code::Unauthenticated, "A token is needed"),
        R::TokenInvalid => (Code::Unauthenticated, "The token is not valid"),
        R::TokenExpired => (Code::Unauthenticated, "The token has expired"),
        R::ReauthenticationRequired => (Code::Unauthenticated, "A recent log-in is needed"),
        R::CredentialsInvalid => (Code::Unauthenticated, "The credentials are not valid"),
        R::AccessDenied => (Code::PermissionDenied, "Access denied"),
        R::ScopeMissing => (Code::PermissionDenied, "The token's scopes do not allow this"),
        R::ResourceNotFound => (Code::NotFound, "The resource does not exist"),
        R::RouteNotFound => (Code::NotFound, "No method has this path"),
        R::MethodNotAllowed => (Code::Unimplemented, "The path has no such HTTP method"),
        R::Unimplemented => (Code::Unimplemented, "The service has no such method"),
        R::ResourceExists => (Code::AlreadyExists, "The resource exists already"),
        R::EtagMismatch => (Code::Aborted, "The resource has changed"),
        R::RequestInProgress => (Code::Aborted, "The same request is still running"),
        R::Conflict => (Code::Aborted, "Concurrent changes collided"),
        R::OutOfStock => (Code::FailedPrecondition, "Not enough stock"),
        R::StateConflict => (Code::FailedPrecondition, "The resource's state does not allow this"),
        R::ProductArchived => (Code::FailedPrecondition, "The product is archived"),
        R::PaymentDeclined => (Code::FailedPrecondition, "The payment was declined"),
        R::OrderShipped => (Code::FailedPrecondition, "Pieces of the order were shipped"),
        R::TotalChanged => (Code::FailedPrecondition, "The order's total has changed"),
        R::OrderAbandoned => (Code::FailedPrecondition, "The order was abandoned"),
        R::RateLimited => (Code::ResourceExhausted, "Too many requests"),
        R::Overloaded => (Code::ResourceExhausted, "The service is overloaded"),
        R::BodyTooLarge => (Code::ResourceExhausted, "The request is too large"),
        R::ServiceUnavailable => (Code::Unavailable, "The service is unavailable"),
        R::DeadlineExceeded => (Code::DeadlineExceeded, "The work took too long"),
        R::Cancelled => (Code::Cancelled, "The request was cancelled"),
        R::Internal | R::Unspecified => (Code::Internal, "Internal error"),
    };
    // Reasons whose HTTP status differs from the table of google.rpc.Code.
    let http_status = match reason {
        R::IdempotencyKeyReused => 422,
        R::MethodNotAllowed => 405,
        R::CursorExpired => 410,
        R::NotAcceptable => 406,
        R::BodyTooLarge => 413,
        R::MediaTypeUnsupported => 415,
        R::Overloaded => 503,
        _ => http_status(code),
    };
    Facts { code, http_status, title }
}

/// The HTTP status of a gRPC code, according to the comments of google.rpc.Code.
pub(super) fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

/// The reason that is closest to the code of a foreign status.
pub(super) fn of_code(code: Code) -> Reason {
    match code {
        Code::InvalidArgument => Reason::MalformedRequest,
        Code::Unauthenticated => Reason::TokenInvalid,
        Code::PermissionDenied => Reason::AccessDenied,
        Code::NotFound => Reason::ResourceNotFound,
        Code::AlreadyExists => Reason::ResourceExists,
        Code::FailedPrecondition => Reason::StateConflict,
        Code::Aborted => Reason::Conflict,
        Code::ResourceExhausted => Reason::Overloaded,
        // tonic returns this code for a message above the size limit.
        Code::OutOfRange => Reason::BodyTooLarge,
        Code::Unimplemented => Reason::Unimplemented,
        Code::Unavailable => Reason::ServiceUnavailable,
        Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::Cancelled => Reason::Cancelled,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Reason::Internal,
    }
}

/// The name of a reason as clients see it, without the enum's prefix: `OUT_OF_STOCK`.
pub(super) fn name(reason: Reason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The reason with this name, without the enum's prefix.
pub(super) fn from_name(name: &str) -> Option<Reason> {
    Reason::from_str_name(&format!("{PREFIX}{name}"))
}

/// The name of a gRPC code in the protocol.
pub(crate) fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All reasons of the contract, so that the tests also cover new ones.
    fn all() -> impl Iterator<Item = Reason> {
        (0..1000).filter_map(|number| Reason::try_from(number).ok())
    }

    #[test]
    fn every_name_parses_to_its_reason() {
        assert!(all().count() > 30, "{}", all().count());
        for reason in all() {
            assert_eq!(from_name(name(reason)), Some(reason));
        }
        assert_eq!(name(Reason::OutOfStock), "OUT_OF_STOCK");
        assert_eq!(from_name("NO_SUCH"), None);
    }

    #[test]
    fn every_reason_has_an_error_code_in_grpc_and_http() {
        for reason in all() {
            let facts = facts(reason);
            assert_ne!(facts.code, Code::Ok, "{reason:?}");
            assert!((400..600).contains(&facts.http_status), "{reason:?}");
            assert!(!facts.title.is_empty() && !facts.title.ends_with('.'), "{reason:?}");
        }
    }

    #[test]
    fn a_grpc_code_maps_to_a_reason_of_the_same_meaning() {
        for number in 1..17 {
            let code = Code::from(number);
            let expected = match code {
                Code::Unknown | Code::DataLoss => Code::Internal,
                Code::OutOfRange => Code::ResourceExhausted,
                same => same,
            };
            assert_eq!(facts(of_code(code)).code, expected, "{code:?}");
        }
    }

    #[test]
    fn http_statuses() {
        let cases = [
            (Reason::FieldInvalid, 400),
            (Reason::IdempotencyKeyReused, 422),
            (Reason::MethodNotAllowed, 405),
            (Reason::NotAcceptable, 406),
            (Reason::CursorExpired, 410),
            (Reason::WebhookSignatureInvalid, 400),
            (Reason::ScopeMissing, 403),
            (Reason::BodyTooLarge, 413),
            (Reason::MediaTypeUnsupported, 415),
            (Reason::Overloaded, 503),
            (Reason::RateLimited, 429),
            (Reason::EtagMismatch, 409),
            (Reason::OutOfStock, 400),
            (Reason::Unimplemented, 501),
            (Reason::TokenExpired, 401),
            (Reason::ReauthenticationRequired, 401),
            (Reason::AccessDenied, 403),
            (Reason::Cancelled, 499),
        ];
        for (reason, status) in cases {
            assert_eq!(facts(reason).http_status, status, "{reason:?}");
        }
    }
}
