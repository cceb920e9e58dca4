//! Errors as clients see them: one type, [`Problem`], for gRPC and REST.
//!
//! A service returns a problem with a reason. The gRPC code, HTTP status and title follow from the reason. The cause is
//! only for the server's log: it stays in the process as the status' source and is never sent.

mod convert;
mod json;
mod passed;
mod reason;
mod status;
mod text;

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc, time::Duration};

pub use souk_proto::common::v1::ErrorReason as Reason;

pub(crate) use self::reason::code_name;
pub use self::text::{MESSAGE_BYTES, NAME_BYTES, shorten};
use self::{
    passed::Passed,
    text::{bounded, shown},
};

/// The domain of souk's reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "souk";
/// Metadata key for the accepted compression codings, if a request was compressed in another way. The value is also a
/// header of the response: `grpc-accept-encoding` on gRPC, `accept-encoding` (RFC 7694) on HTTP.
pub const ACCEPT_ENCODING: &str = "acceptEncoding";

/// The retry delay for clients if a service cannot be reached.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);

/// An error as a client sees it. Cheap to move. Everything except the cause may be shown to anyone. Texts have at most
/// [`MESSAGE_BYTES`] and names at most [`NAME_BYTES`]; longer ones are shortened in the middle.
#[derive(Debug, Clone)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    reason: Reason,
    message: String,
    fields: Vec<Field>,
    violations: Vec<Violation>,
    metadata: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    resource: Option<Resource>,
    request_id: Option<String>,
    http_status: Option<u16>,
    passed: Option<Passed>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// An invalid field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The path of the field, with the names of the contract: `items[0].quantity`, `labels["a"]`.
    pub path: String,
    /// What a valid value looks like: "must be at least 1".
    pub description: String,
}

/// A condition outside the request that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The type of condition, in capitals: `STOCK`.
    pub kind: String,
    /// The name of the resource that the condition is about.
    pub subject: String,
    /// What does not meet the condition.
    pub description: String,
}

/// The resource that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The type of the resource in the contract, `souk/Order`. Empty if only the name is known.
    pub kind: String,
    /// The resource name, `orders/ord_…`.
    pub name: String,
}

/// Constructors.
impl Problem {
    /// Creates a problem with a reason, and a message for people that says what is wrong and what would be right.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: bounded(message, MESSAGE_BYTES),
            fields: Vec::new(),
            violations: Vec::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
            resource: None,
            request_id: None,
            http_status: None,
            passed: None,
            cause: None,
        }))
    }

    /// One field of the request is invalid: its path, and what would be right.
    pub fn invalid(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self::fields([(path, description)])
    }

    /// Fields of the request are invalid: their paths, and what would be right.
    pub fn fields<P, D>(fields: impl IntoIterator<Item = (P, D)>) -> Self
    where
        P: Into<String>,
        D: Into<String>,
    {
        let mut problem = Self::new(Reason::FieldInvalid, "");
        problem.0.fields = fields.into_iter().map(|(path, description)| Field::new(path, description)).collect();
        let message = match problem.0.fields.as_slice() {
            [] => "the request is not valid".to_owned(),
            [first] => first.to_string(),
            [first, second] => format!("{first} (and 1 more: {})", second.path),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        };
        problem.0.message = bounded(message, MESSAGE_BYTES);
        problem
    }

    /// The caller may not use the resource, or it does not exist. Both cases have the same response, so that nobody
    /// learns which names exist.
    pub fn access_denied(resource: impl Into<String>) -> Self {
        let name = bounded(resource, NAME_BYTES);
        Self::new(Reason::AccessDenied, format!("{name} is not yours to use, or does not exist")).resource("", name)
    }

    /// The resource does not exist. Only for callers who may know this: see [`Problem::access_denied`].
    pub fn not_found(resource: impl Into<String>) -> Self {
        let name = bounded(resource, NAME_BYTES);
        Self::new(Reason::ResourceNotFound, format!("{name} does not exist")).resource("", name)
    }

    /// The resource changed since the caller read it.
    pub fn etag_mismatch() -> Self {
        Self::new(
            Reason::EtagMismatch,
            "the resource has changed since its etag was read: read it again and repeat the change",
        )
    }

    /// An internal error, without any details. Add the cause for the log with [`Problem::caused_by`].
    pub fn internal() -> Self {
        Self::new(Reason::Internal, status::neutral(Reason::Internal))
    }

    /// `what`, for example "the payment provider", cannot be reached at the moment.
    pub fn unavailable(what: impl fmt::Display) -> Self {
        Self::unavailable_since(what, "cannot be reached")
    }

    /// Like [`Problem::unavailable`], with another explanation: "takes no changes".
    pub fn unavailable_since(what: impl fmt::Display, why: &str) -> Self {
        Self::new(Reason::ServiceUnavailable, format!("{what} {why} at the moment: try again"))
            .retry_after(RETRY_UNAVAILABLE)
    }
}

/// Methods that add details.
impl Problem {
    /// Adds an invalid field: its path, and what would be right.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.fields.push(Field::new(path, description));
        self
    }

    /// Adds a condition that was not met: its type in capitals, the name of the resource, what is missing.
    #[must_use]
    pub fn violation(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.0.violations.push(Violation::new(kind, subject, description));
        self
    }

    /// Adds a value for programs. The key is in lowerCamelCase.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.metadata.insert(key.into(), shown(value));
        self
    }

    /// Sets how long the client should wait before it tries again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Sets the resource that the problem is about: its type in the contract (`souk/Order`, or empty) and its name.
    #[must_use]
    pub fn resource(mut self, kind: impl Into<String>, name: impl Into<String>) -> Self {
        self.0.resource = Some(Resource::new(kind, name));
        self
    }

    /// Sets the request id, with which the request can be found in the logs.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// Sets an HTTP status that differs from the reason's, for cases where HTTP has a more precise one: 412 for an
    /// `If-Match` that does not match. gRPC clients and the next hop only see the reason.
    #[must_use]
    pub fn on_http(mut self, status: u16) -> Self {
        self.0.http_status = Some(status);
        self
    }

    /// Sets the cause, for the server's log. It is never sent to clients.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(Arc::from(cause.into()));
        self
    }
}

/// Methods that read a problem.
impl Problem {
    /// The reason, for programs.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The reason as clients see it: `OUT_OF_STOCK`. For the error of a foreign service, the name of its gRPC code.
    pub fn reason_name(&self) -> &'static str {
        self.0.passed.as_ref().map_or_else(|| reason::name(self.0.reason), Passed::name)
    }

    /// The gRPC code of the reason, or of a foreign service's error.
    pub fn code(&self) -> tonic::Code {
        self.0.passed.as_ref().map_or_else(|| reason::facts(self.0.reason).code, |passed| passed.code)
    }

    /// The HTTP status: that of [`Problem::on_http`], or else the status that follows from the reason.
    pub fn http_status(&self) -> u16 {
        let usual = || match &self.0.passed {
            Some(passed) => passed.http_status(),
            None => reason::facts(self.0.reason).http_status,
        };
        self.0.http_status.unwrap_or_else(usual)
    }

    /// A short explanation for people, the same for every problem of the reason.
    pub fn title(&self) -> &'static str {
        reason::facts(self.0.reason).title
    }

    /// The explanation of this problem, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The invalid fields of the request.
    pub fn field_violations(&self) -> &[Field] {
        &self.0.fields
    }

    /// The conditions that were not met.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The value of a metadata key.
    pub fn get_metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// How long the client should wait before it tries again.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The resource that the problem is about.
    pub fn about(&self) -> Option<&Resource> {
        self.0.resource.as_ref()
    }

    /// True if the error is a fault of souk and not of the caller. Such problems are logged as errors.
    pub fn is_fault(&self) -> bool {
        matches!(self.0.reason, Reason::Internal | Reason::Unspecified)
    }
}

impl Field {
    fn new(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self { path: bounded(path, NAME_BYTES), description: bounded(description, MESSAGE_BYTES) }
    }
}

impl Violation {
    fn new(kind: impl Into<String>, subject: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            kind: bounded(kind, NAME_BYTES),
            subject: bounded(subject, NAME_BYTES),
            description: bounded(description, MESSAGE_BYTES),
        }
    }
}

impl Resource {
    fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: bounded(kind, NAME_BYTES), name: bounded(name, NAME_BYTES) }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.description);
        }
        write!(f, "{} {}", self.path, self.description)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason_name(), self.0.message)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// Converts errors of internal code to problems that keep the error as their cause.
pub trait OrProblem<T> {
    /// Converts an error to an internal problem.
    ///
    /// # Errors
    /// [`Problem::internal`] with the error as its cause.
    fn or_internal(self) -> Result<T, Problem>;

    /// Converts an error to an unavailable problem.
    ///
    /// # Errors
    /// [`Problem::unavailable`] with the error as its cause.
    fn or_unavailable(self, what: &str) -> Result<T, Problem>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrProblem<T> for Result<T, E> {
    fn or_internal(self) -> Result<T, Problem> {
        self.map_err(|cause| Problem::internal().caused_by(cause))
    }

    fn or_unavailable(self, what: &str) -> Result<T, Problem> {
        self.map_err(|cause| Problem::unavailable(what).caused_by(cause))
    }
}

/// An error and all its causes in one line, for the log. A cause is skipped if the text before it already ends with it.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_field_errors_make_one_message() {
        let one = Problem::invalid("items[0].quantity", "must be at least 1");
        assert_eq!(one.message(), "items[0].quantity must be at least 1");
        let three = Problem::fields([("a", "must be set"), ("b", "must be set"), ("c", "must be set")]);
        assert_eq!(three.message(), "a must be set (and 2 more)");
        assert_eq!(three.field_violations().len(), 3);
        assert_eq!(three.reason(), Reason::FieldInvalid);
    }

    #[test]
    fn long_texts_of_a_client_are_shortened_in_messages() {
        let long = "x".repeat(4_000_000);
        let problem = Problem::fields([(&*long, &*long)])
            .field(&*long, &*long)
            .violation(&*long, &*long, &*long)
            .metadata("key", &long)
            .resource(&*long, &*long);
        let named =
            [Problem::new(Reason::Conflict, &*long), Problem::not_found(&*long), Problem::access_denied(&*long)];
        for problem in named.into_iter().chain([problem]) {
            let json = problem.to_json("id", &long).to_string();
            assert!(json.len() < 16 * 1024, "{}", json.len());
            assert!(problem.to_string().len() < 2 * MESSAGE_BYTES);
            let status = tonic::Status::from(problem);
            assert!(status.message().len() <= MESSAGE_BYTES && status.details().len() < 16 * 1024);
        }
        let problem = Problem::new(Reason::UnknownField, format!("{long} is not a field of Request"));
        assert!(problem.message().ends_with("is not a field of Request"), "{}", problem.message());
    }

    #[test]
    fn a_foreign_resource_and_a_missing_one_have_the_same_error() {
        let one = tonic::Status::from(Problem::access_denied("orders/ord_a"));
        let other = tonic::Status::from(Problem::access_denied("orders/ord_a").caused_by("no row"));
        assert_eq!((one.code(), one.message(), one.details()), (other.code(), other.message(), other.details()));
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        let inner = Problem::new(Reason::Conflict, "inner").caused_by("the root");
        let outer = Problem::internal().caused_by(inner);
        let text = chain(&outer);
        assert!(text.ends_with("CONFLICT: inner: the root"), "{text}");
        assert_eq!(text.matches("the root").count(), 1);
    }

    #[test]
    fn results_keep_their_cause() {
        let failed: Result<(), _> = Err(std::io::Error::other("disk on fire"));
        let problem = failed.or_internal().unwrap_err();
        assert!(problem.is_fault());
        assert!(!problem.to_string().contains("disk"));
        assert!(chain(&problem).ends_with("disk on fire"));
    }
}
