//! The OpenAPI document of the contract ([`souk_transcode::openapi`]), with the gateway's additions: access, errors,
//! headers.

mod operation;
mod problems;

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor};
use serde_json::{Map, Value as Json, json};
use souk_common::contract::{Contract, validate::Text};
use souk_transcode::openapi::{Checks, Describe};

use crate::routes::{self, Route, Routes};

/// Description of the API: the rules that apply to every method.
const ABOUT: &str = "JSON is [proto3 JSON](https://protobuf.dev/programming-guides/json/): names in lowerCamelCase, \
    64-bit numbers as text, enums by name, times as RFC 3339. Texts of requests have no control characters; what people \
    write at length may have tabs and line breaks, everything else is one line without characters that change the \
    direction of text. In answers every field is there, save messages, \
    `optional` fields and choices that are not set. In requests a field may be left out or null, unknown ones are \
    refused. Requests are told in the form that answers have; what else proto3 JSON allows is read as well, such as \
    numbers of enums.\n\nErrors are `application/problem+json`; decide by `reason`. Every answer has an `X-Request-Id`, which \
    finds the request in the logs. The same methods are there as gRPC, at the same address.";

/// Description of an API that was not written for souk.
const ABOUT_FOREIGN: &str = "JSON is [proto3 JSON](https://protobuf.dev/programming-guides/json/): names in lowerCamelCase, \
    64-bit numbers as text, enums by name, times as RFC 3339. In requests a field may be left out or null.\n\nErrors are \
    `application/problem+json`: of a service with the name of its gRPC code as `reason` and its `details`, of the gateway \
    with a reason of its own. Every answer has an `X-Request-Id`, which finds the request in the logs. The same methods are \
    there as gRPC, at the same address.";

/// Metadata of the documented API.
#[derive(Debug, Clone)]
pub struct About {
    /// Title of the API.
    pub title: String,
    /// Version of the API.
    pub version: String,
    description: &'static str,
    /// True for souk's own API, whose errors have souk's reasons.
    own: bool,
    /// True if responses omit fields that have their default value.
    sparse: bool,
}

impl Default for About {
    fn default() -> Self {
        let (title, version) = ("souk".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Self { title, version, description: ABOUT, own: true, sparse: false }
    }
}

impl About {
    /// The metadata of an API that was not written for souk. `sparse`: responses omit fields that have their default
    /// value.
    pub fn foreign(title: String, version: String, sparse: bool) -> Self {
        Self { title, version, description: ABOUT_FOREIGN, own: false, sparse }
    }
}

/// The OpenAPI document of souk's contract and its routes.
pub fn document(contract: &Contract, routes: &Routes) -> Json {
    document_about(contract, routes, &About::default())
}

/// The OpenAPI document of a contract and its routes.
pub fn document_about(contract: &Contract, routes: &Routes, about: &About) -> Json {
    souk_transcode::openapi::document(contract.pool(), routes, &Served { contract, about })
}

/// A contract as this gateway serves it.
struct Served<'c> {
    contract: &'c Contract,
    about: &'c About,
}

impl Checks for Served<'_> {
    fn omits_defaults(&self) -> bool {
        self.about.sparse
    }

    fn refused_when_empty(&self, message: &MessageDescriptor) -> Vec<String> {
        let checked = self.contract.validator().check(&DynamicMessage::new(message.clone()));
        checked.err().into_iter().flatten().map(|violation| violation.field_path).collect()
    }

    fn text_pattern(&self, field: &FieldDescriptor) -> Option<&str> {
        self.contract.validator().text(field).map(Text::pattern)
    }
}

impl Describe<routes::Served> for Served<'_> {
    fn info(&self) -> Json {
        let About { title, version, description, .. } = self.about;
        json!({"title": title, "version": version, "description": description})
    }

    fn components(&self) -> Map<String, Json> {
        components(self.contract, self.about.own)
    }

    fn operation(&self, route: &Route, operation: &mut Map<String, Json>) {
        operation::describe(route, operation);
    }
}

fn components(contract: &Contract, own: bool) -> Map<String, Json> {
    let reasons = if own { problems::Reasons::of(contract) } else { problems::Reasons::default() };
    let bearer = match own {
        true => {
            json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The `accessToken` of a session."})
        }
        false => json!({"type": "http", "scheme": "bearer"}),
    };
    let statuses = [400, 401, 403, 404, 406, 409, 412, 413, 415, 422, 429, 500, 503, 504];
    let mut responses: Map<String, Json> =
        statuses.into_iter().map(|status| (status.to_string(), reasons.response(status))).collect();
    responses.insert("304".to_owned(), json!({"description": "It is still what the client has, by `If-None-Match`."}));
    // The HTTP server sends this before a request exists that could have a problem.
    responses.insert(
        "431".to_owned(),
        json!({"description": "The path with its query, or the headers, are longer than the gateway takes. Methods that accept more have a form with a body."}),
    );
    let components = json!({
        "schemas": {"Problem": problems::schema(own)},
        "responses": responses,
        "parameters": {
            "Idempotency-Key": {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same as the key in the body, and in its place where that has none. With it, a request may be repeated and acts once.",
                "schema": {"type": "string"},
            },
            "If-Match": {
                "name": "If-Match",
                "in": "header",
                "description": "The etag that the resource must still have.",
                "schema": {"type": "string"},
            },
            "If-None-Match": {
                "name": "If-None-Match",
                "in": "header",
                "description": "Etags of answers that the client has: 304 where one of them is still right.",
                "schema": {"type": "string"},
            },
            "Last-Event-ID": {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The position in the stream to resume after.",
                "schema": {"type": "string"},
            },
        },
        "headers": {
            "X-Request-Id": {"description": "Finds the request in the logs.", "required": true, "schema": {"type": "string"}},
            "ETag": {"description": "Changes with every change of the answer.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0}},
            "WWW-Authenticate": {"description": "Which kind of token is wanted (RFC 6750).", "schema": {"type": "string"}},
            "Idempotent-Replayed": {
                "description": "The answer is that of the first request with this key.",
                "schema": {"type": "string", "enum": ["true"]},
            },
            "Deprecation": {"description": "Since when the method is deprecated (RFC 9745).", "schema": {"type": "string"}},
            "Sunset": {"description": "When the method may be gone (RFC 8594).", "schema": {"type": "string"}},
        },
        "securitySchemes": {
            "bearer": bearer,
        },
    });
    components.as_object().cloned().unwrap_or_default()
}
