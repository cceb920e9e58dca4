//! OpenAPI 3.1 of a contract, made from its descriptors alone.

mod behavior;
mod comments;
mod digits;
mod example;
mod kinds;
mod names;
mod operation;
mod path;
mod problems;
mod resources;
pub(crate) mod rules;
mod schema;
mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::MessageDescriptor;
use serde_json::{Map, Value as Json, json};
use souk_common::contract::Contract;

use self::{names::Names, path::Path, problems::Reasons, schema::Schemas};
use crate::{
    routes::{Route, Routes},
    transcode::scalar,
};

/// What holds for every method, told once.
const ABOUT: &str = "JSON is [proto3 JSON](https://protobuf.dev/programming-guides/json/): names in lowerCamelCase, \
    64-bit numbers as text, enums by name, times as RFC 3339. Texts of requests have no control characters; what people \
    write at length may have tabs and line breaks, everything else is one line without characters that change the \
    direction of text. In answers every field is there, save messages, \
    `optional` fields and choices that are not set. In requests a field may be left out or null, unknown ones are \
    refused. Requests are told in the form that answers have; what else proto3 JSON allows is read as well, such as \
    numbers of enums.\n\nErrors are `application/problem+json`; decide by `reason`. Every answer has an `X-Request-Id`, which \
    finds the request in the logs. The same methods are there as gRPC, at the same address.";

/// The same for contracts that were not written for souk.
const ABOUT_FOREIGN: &str = "JSON is [proto3 JSON](https://protobuf.dev/programming-guides/json/): names in lowerCamelCase, \
    64-bit numbers as text, enums by name, times as RFC 3339. In requests a field may be left out or null.\n\nErrors are \
    `application/problem+json`: of a service with the name of its gRPC code as `reason` and its `details`, of the gateway \
    with a reason of its own. Every answer has an `X-Request-Id`, which finds the request in the logs. The same methods are \
    there as gRPC, at the same address.";

/// Whose API a document is of.
#[derive(Debug, Clone)]
pub struct About {
    /// Its name.
    pub title: String,
    /// Its version.
    pub version: String,
    description: &'static str,
    /// It is souk's, whose reasons and rules for texts hold.
    own: bool,
    /// Answers lack fields that have their default value.
    sparse: bool,
}

impl Default for About {
    fn default() -> Self {
        let (title, version) = ("souk".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Self { title, version, description: ABOUT, own: true, sparse: false }
    }
}

impl About {
    /// An API that was not written for souk. `sparse`: answers lack fields that have their default value.
    pub fn foreign(title: String, version: String, sparse: bool) -> Self {
        Self { title, version, description: ABOUT_FOREIGN, own: false, sparse }
    }
}

/// What OpenAPI 3.1 has a place for.
const HTTP_METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

/// The document of souk's contract and its routes.
pub fn document(contract: &Contract, routes: &Routes) -> Json {
    document_about(contract, routes, &About::default())
}

/// The document of a contract and its routes.
pub fn document_about(contract: &Contract, routes: &Routes, about: &About) -> Json {
    let names = Names::of(contract.pool(), routes);
    let mut schemas = Schemas::new(contract, names, about);
    let mut paths: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    let mut shapes: HashMap<String, String> = HashMap::new();
    let mut ids = BTreeSet::new();
    let mut services = BTreeSet::new();
    for route in routes.iter().filter(|route| !route.method.descriptor.is_client_streaming()) {
        let mut path = Path::of(route, &mut schemas);
        let known = shapes.entry(path.shape()).or_insert_with(|| path.text.clone()).clone();
        path.rename_as(&known);
        let id = operation_id(route, &schemas.names, &mut ids);
        let operation = operation::operation(route, id, &path, &mut schemas);
        services.insert(route.method.service.to_string());
        let item = paths.entry(path.text).or_default();
        match HTTP_METHODS.contains(&route.http_method.as_str()) {
            true => drop(item.insert(route.http_method.to_lowercase(), operation)),
            // OpenAPI 3.1 has no place for other methods.
            false => {
                let others = item.entry("x-additional-operations").or_insert_with(|| json!({}));
                others[&route.http_method] = operation;
            }
        }
    }
    let tags: Vec<Json> = services.iter().map(|service| tag(service, contract, &schemas)).collect();
    let reasons = if about.own { Reasons::of(contract, &schemas.comments) } else { Reasons::default() };
    json!({
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": about.version, "description": about.description},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": components(&reasons, schemas, about.own),
    })
}

/// `OrderService_PlaceOrder`; with a number for each further route of the method.
fn operation_id(route: &Route, names: &Names, taken: &mut BTreeSet<String>) -> String {
    let service = names.name(&route.method.service).replace('.', "_");
    let first = format!("{service}_{}", route.method.name);
    let further = (2..).map(|number| format!("{first}_{number}"));
    let id = std::iter::once(first.clone()).chain(further).find(|id| !taken.contains(id)).unwrap_or(first);
    taken.insert(id.clone());
    id
}

fn tag(service: &str, contract: &Contract, schemas: &Schemas<'_>) -> Json {
    let mut tag = json!({"name": schemas.names.name(service)});
    let found = contract.pool().get_service_by_name(service);
    if let Some(comment) =
        found.and_then(|of| schemas.comments.at(of.parent_file().name(), of.path()).map(str::to_owned))
    {
        tag["description"] = json!(comment);
    }
    tag
}

fn components(reasons: &Reasons, schemas: Schemas<'_>, own: bool) -> Json {
    let statuses = [400, 401, 403, 404, 406, 409, 412, 413, 415, 422, 429, 500, 503, 504];
    let mut responses: Map<String, Json> =
        statuses.into_iter().map(|status| (status.to_string(), reasons.response(status))).collect();
    responses.insert("304".to_owned(), json!({"description": "It is still what the client has, by `If-None-Match`."}));
    // Said by the server before there is a request that could have a problem.
    responses.insert(
        "431".to_owned(),
        json!({"description": "The path with its query, or the headers, are longer than the gateway takes. Methods that accept more have a form with a body."}),
    );
    let mut named = schemas.into_named();
    named.insert("Problem".to_owned(), problems::schema(own));
    let bearer = match own {
        true => {
            json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The `accessToken` of a session."})
        }
        false => json!({"type": "http", "scheme": "bearer"}),
    };
    json!({
        "schemas": named,
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
                "description": "The place in the stream to go on after.",
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
    })
}

/// Whether proto3 JSON gives the type a form of its own, other than an object with its fields.
fn has_own_form(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.") || scalar::wrapped(message).is_some()
}
