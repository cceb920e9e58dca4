//! An error of a foreign service, passed on unchanged: code, message and details.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Problem, reason};

/// The error of a foreign service.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub code: Code,
    message: String,
    details: Bytes,
    /// The details as JSON. A detail of an unknown type only has the name of its type.
    json: Vec<Value>,
    /// Headers of the response to the client.
    pub headers: HeaderMap,
}

impl Problem {
    /// A problem with the unchanged error of a service that is not part of souk. `details` are the error's details as
    /// JSON; `headers` are sent to the client. Only for services whose messages are meant for clients: see
    /// [`Problem::from_status`].
    pub fn passed(status: &Status, details: Vec<Value>, headers: HeaderMap) -> Self {
        let mut problem = Self::new(reason::of_code(status.code()), status.message());
        problem.0.retry_after = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        problem.0.passed = Some(Passed {
            code: status.code(),
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
            json: details,
            headers,
        });
        problem
    }

    /// The headers of a foreign service's error.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.0.passed.as_ref().map(|passed| &passed.headers)
    }
}

impl Passed {
    /// The error as a gRPC status.
    pub fn status(self) -> Status {
        Status::with_details(self.code, self.message, self.details)
    }

    /// Writes the members of `application/problem+json` that differ from those of souk's own problems.
    pub fn write(&self, body: &mut serde_json::Map<String, Value>) {
        body.insert("title".into(), self.code.description().into());
        body.insert("detail".into(), self.message.as_str().into());
        if !self.json.is_empty() {
            body.insert("details".into(), json!(self.json));
        }
    }

    /// The HTTP status of the gRPC code.
    pub fn http_status(&self) -> u16 {
        reason::http_status(self.code)
    }

    /// The name of the gRPC code: `OUT_OF_RANGE`.
    pub fn name(&self) -> &'static str {
        reason::code_name(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_keeps_its_message_and_has_its_usual_http_status() {
        let table = [
            (Code::Unknown, 500, "UNKNOWN"),
            (Code::OutOfRange, 400, "OUT_OF_RANGE"),
            (Code::DataLoss, 500, "DATA_LOSS"),
            (Code::ResourceExhausted, 429, "RESOURCE_EXHAUSTED"),
            (Code::FailedPrecondition, 400, "FAILED_PRECONDITION"),
        ];
        for (code, http_status, name) in table {
            let status = Status::with_details(code, "x".repeat(5000), Bytes::from_static(b"\x08\x0b"));
            let problem = Problem::passed(&status, vec![json!({"@type": "a"})], HeaderMap::new());
            assert_eq!((problem.code(), problem.http_status(), problem.reason_name()), (code, http_status, name));
            let body = problem.to_json("id", "/");
            assert_eq!(body["detail"].as_str().map(str::len), Some(5000));
            assert_eq!((&body["status"], &body["details"][0]["@type"]), (&json!(http_status), &json!("a")));
            assert_eq!((&body["reason"], &body["type"]), (&json!(name), &json!(format!("/errors/{name}"))));
            let back = Status::from(problem.request_id("id"));
            assert_eq!((back.code(), back.message(), back.details()), (code, status.message(), status.details()));
        }
    }
}
