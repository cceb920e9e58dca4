//! The schema of errors, and the reasons by HTTP status.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use souk_common::{
    contract::Contract,
    error::{Problem, Reason},
};
use souk_transcode::openapi::Comments;

/// The schema of `application/problem+json`, as `Problem::to_json` writes it. `own` is false for a foreign API, whose
/// errors have details.
pub fn schema(own: bool) -> Json {
    let mut schema = json!({
        "type": "object",
        "description": "An error (RFC 9457). Clients decide by `reason`, which is never renamed.",
        "required": ["type", "title", "status", "detail", "instance", "reason", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "pattern": "^/errors/[A-Z_]+$", "examples": ["/errors/FIELD_INVALID"]},
            "title": {"type": "string", "description": "The same for every problem of the reason."},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What is wrong with this request, for people."},
            "instance": {"type": "string", "description": "Path of the request."},
            "reason": {"type": "string", "pattern": "^[A-Z_]+$", "examples": ["FIELD_INVALID"]},
            "request_id": {"type": "string", "description": "Finds the request in the logs."},
            "errors": {
                "type": "array",
                "description": "Each field that is wrong.",
                "items": {
                    "type": "object",
                    "required": ["field", "detail"],
                    "properties": {
                        "field": {"type": "string", "description": "In the contract's names: `items[0].unit_price`."},
                        "in": {"type": "string", "enum": ["path", "query", "header", "body"]},
                        "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into the body that was sent."},
                        "detail": {"type": "string", "description": "What would be right."},
                    },
                },
            },
            "violations": {
                "type": "array",
                "description": "Each condition that is not met.",
                "items": {
                    "type": "object",
                    "required": ["type", "subject", "description"],
                    "properties": {
                        "type": {"type": "string"},
                        "subject": {"type": "string", "description": "What it is about, for example a product's resource name."},
                        "description": {"type": "string"},
                    },
                },
            },
            "resource": {"type": "string", "description": "Resource name of what it is about."},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            "retry_after": {"type": "integer", "minimum": 0, "description": "Seconds, as in the header Retry-After."},
        },
    });
    if !own {
        schema["properties"]["details"] = json!({
            "type": "array",
            "description": "The details of the service's error, each by its type; in `base64` if the type is unknown.",
            "items": {"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}},
        });
    }
    schema
}

/// The reasons of each status with their meaning, in the order of the contract.
#[derive(Default)]
pub struct Reasons(BTreeMap<u16, Vec<(&'static str, String)>>);

impl Reasons {
    /// All reasons. Their descriptions are empty if the contract does not have the enum.
    pub fn of(contract: &Contract) -> Self {
        let comments = Comments::of(contract.pool());
        let mut reasons: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        let described = contract.pool().get_enum_by_name("souk.common.v1.ErrorReason");
        let described = described.map(|of| comments.values(&of)).unwrap_or_default();
        // The numbers are grouped by subject, with gaps between the groups.
        for reason in (1..1000).filter_map(|number| Reason::try_from(number).ok()) {
            let problem = Problem::new(reason, "");
            let comment =
                described.iter().find(|(name, _)| name == reason.as_str_name()).and_then(|(_, comment)| *comment);
            let words = comment.map_or_else(|| problem.title().to_owned(), |comment| comment.replace('\n', " "));
            reasons.entry(problem.http_status()).or_default().push((problem.reason_name(), words));
        }
        // With If-Match, this reason has an HTTP status of its own.
        let mismatch: Vec<_> =
            reasons.get(&409).into_iter().flatten().filter(|(name, _)| *name == "ETAG_MISMATCH").cloned().collect();
        reasons.insert(412, mismatch);
        Self(reasons)
    }

    /// The response component for a status.
    pub fn response(&self, status: u16) -> Json {
        let reasons = self.0.get(&status).map(Vec::as_slice).unwrap_or_default();
        let told: Vec<_> = reasons.iter().map(|(name, words)| format!("- `{name}`: {words}")).collect();
        let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}});
        if matches!(status, 429 | 503) {
            headers["Retry-After"] = json!({"$ref": "#/components/headers/Retry-After"});
        }
        if status == 401 {
            headers["WWW-Authenticate"] = json!({"$ref": "#/components/headers/WWW-Authenticate"});
        }
        json!({
            "description": if told.is_empty() { "An error.".to_owned() } else { told.join("\n") },
            "headers": headers,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        })
    }
}
