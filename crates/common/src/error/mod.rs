//! Errors as clients see them: one [`Problem`], the same on gRPC and on REST.
//!
//! A service returns a problem with a reason. The gRPC code, HTTP status and title follow from the reason. The cause is
//! for the server's log alone: it stays in the process as the status' source and never goes over the wire.

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
/// Metadata of a problem with how a request was compressed: the codings that are accepted. It is a header of the
/// response, too: `grpc-accept-encoding` on gRPC, `accept-encoding` (RFC 7694) on HTTP.
pub const ACCEPT_ENCODING: &str = "acceptEncoding";

/// How long a client should wait before it asks a service again that could not be reached.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);

/// An error as a client sees it. Cheap to move; everything in it may be shown to anyone, its cause excepted. None of its
/// texts is longer than [`MESSAGE_BYTES`], no name longer than [`NAME_BYTES`]: what is longer is shortened in the middle.
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

/// A field of the request that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its path, in the names of the contract: `items[0].quantity`, `labels["a"]`.
    pub path: String,
    /// What would be right: "must be at least 1".
    pub description: String,
}

/// A condition outside the request that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The kind of condition, in capitals: `STOCK`.
    pub kind: String,
    /// What it is about: a resource name.
    pub subject: String,
    /// What is missing.
    pub description: String,
}

/// The resource that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type in the contract, `souk/Order`; empty where only the name is known.
    pub kind: String,
    /// Its resource name, `orders/ord_…`.
    pub name: String,
}

/// Making problems.
impl Problem {
    /// A problem for a reason, with a message for people that says what is wrong and what would be right.
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

    /// One field of the request is not valid: where, and what would be right.
    pub fn invalid(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self::fields([(path, description)])
    }

    /// Fields of the request are not valid: where, and what would be right.
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

    /// The caller may not do this with the resource, or it does not exist: the answer is the same, so that nobody
    /// learns which names exist.
    pub fn access_denied(resource: impl Into<String>) -> Self {
        let name = bounded(resource, NAME_BYTES);
        Self::new(Reason::AccessDenied, format!("{name} is not yours to use, or does not exist")).resource("", name)
    }

    /// The resource does not exist. For those who may know: see [`Problem::access_denied`].
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

    /// An internal error. It reveals nothing: add the cause for the log with [`Problem::caused_by`].
    pub fn internal() -> Self {
        Self::new(Reason::Internal, status::neutral(Reason::Internal))
    }

    /// A part of souk or a peer cannot be reached now: "the payment provider".
    pub fn unavailable(what: impl fmt::Display) -> Self {
        Self::unavailable_since(what, "cannot be reached")
    }

    /// The same, in other words than that it cannot be reached: "takes no changes".
    pub fn unavailable_since(what: impl fmt::Display, why: &str) -> Self {
        Self::new(Reason::ServiceUnavailable, format!("{what} {why} at the moment: try again"))
            .retry_after(RETRY_UNAVAILABLE)
    }
}

/// Saying more.
impl Problem {
    /// Adds a field that is not valid: where, and what would be right.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.fields.push(Field::new(path, description));
        self
    }

    /// Adds a condition that was not met: its sort in capitals, the resource it is about, what is missing.
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

    /// Adds a value for programs, by a key in lowerCamelCase.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.metadata.insert(key.into(), shown(value));
        self
    }

    /// How long the client should wait before it tries again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Which resource it is about: its type in the contract (`souk/Order`, or empty) and its name.
    #[must_use]
    pub fn resource(mut self, kind: impl Into<String>, name: impl Into<String>) -> Self {
        self.0.resource = Some(Resource::new(kind, name));
        self
    }

    /// The request's id, by which the logs tell more.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// Has an HTTP status of its own instead of its reason's, where HTTP has one for how the request was made: 412
    /// for an `If-Match` that no longer holds. gRPC and the next hop see the reason alone.
    #[must_use]
    pub fn on_http(mut self, status: u16) -> Self {
        self.0.http_status = Some(status);
        self
    }

    /// Keeps what caused it, for the server's log. No client sees it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(Arc::from(cause.into()));
        self
    }
}

/// Reading problems.
impl Problem {
    /// Why, for programs.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The reason as clients see it: `OUT_OF_STOCK`; of a foreign service's error, the name of its code.
    pub fn reason_name(&self) -> &'static str {
        self.0.passed.as_ref().map_or_else(|| reason::name(self.0.reason), Passed::name)
    }

    /// The gRPC code, which follows from the reason.
    pub fn code(&self) -> tonic::Code {
        self.0.passed.as_ref().map_or_else(|| reason::facts(self.0.reason).code, |passed| passed.code)
    }

    /// The HTTP status, which follows from the reason, save where [`Problem::on_http`] set another.
    pub fn http_status(&self) -> u16 {
        let usual = || match &self.0.passed {
            Some(passed) => passed.http_status(),
            None => reason::facts(self.0.reason).http_status,
        };
        self.0.http_status.unwrap_or_else(usual)
    }

    /// Why, for people; the same for every problem of the reason.
    pub fn title(&self) -> &'static str {
        reason::facts(self.0.reason).title
    }

    /// What is wrong this time, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The fields of the request that are not valid.
    pub fn field_violations(&self) -> &[Field] {
        &self.0.fields
    }

    /// The conditions that were not met.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// A value for programs.
    pub fn get_metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// How long the client should wait before it tries again.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The resource it is about.
    pub fn about(&self) -> Option<&Resource> {
        self.0.resource.as_ref()
    }

    /// Whether it is souk's fault and not the caller's, so that it is logged as an error.
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

/// Turns the error of something internal into a problem that keeps it as its cause.
pub trait OrProblem<T> {
    /// Turns an error into an internal problem.
    ///
    /// # Errors
    /// [`Problem::internal`] with the error as its cause.
    fn or_internal(self) -> Result<T, Problem>;

    /// Turns an error into an unavailable problem.
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

/// An error and all its causes in one line, for the log. Causes that their parent's text ends with are not repeated.
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
    fn fields_make_one_message() {
        let one = Problem::invalid("items[0].quantity", "must be at least 1");
        assert_eq!(one.message(), "items[0].quantity must be at least 1");
        let three = Problem::fields([("a", "must be set"), ("b", "must be set"), ("c", "must be set")]);
        assert_eq!(three.message(), "a must be set (and 2 more)");
        assert_eq!(three.field_violations().len(), 3);
        assert_eq!(three.reason(), Reason::FieldInvalid);
    }

    #[test]
    fn no_text_of_a_client_comes_back_whole() {
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
    fn a_resource_that_is_not_yours_and_one_that_is_not_there_look_the_same() {
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
