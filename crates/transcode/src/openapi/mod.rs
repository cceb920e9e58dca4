//! OpenAPI 3.1 of an API, made from its descriptors and routes.
//!
//! Schemas are derived from types, the rules of `buf.validate`, `google.api.field_behavior` and `google.api.resource`.
//! Texts are the comments of the `.proto` files, if the descriptors contain them (source info). A program adds the rest
//! of its documentation with [`Describe`] and [`Checks`]. [`Plain`] adds nothing.

mod behavior;
mod comments;
mod digits;
mod example;
mod kinds;
mod names;
mod operation;
mod path;
mod resources;
mod schema;
mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

pub use self::comments::Comments;
use self::{names::Names, path::Path, schema::Schemas};
use crate::{
    message::scalar,
    routes::{Route, Routes},
};

/// The HTTP methods that OpenAPI 3.1 supports.
const HTTP_METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

/// The checks of requests in a program, in addition to their types.
pub trait Checks {
    /// The names of the fields and oneofs of a message that must be set. They become `required`.
    fn refused_when_empty(&self, message: &MessageDescriptor) -> Vec<String> {
        let _ = message;
        Vec::new()
    }

    /// True if responses omit the fields with their default value.
    fn omits_defaults(&self) -> bool {
        false
    }

    /// A regular expression (ECMAScript) that each text in a field matches; for a map, its keys and values.
    fn text_pattern(&self, field: &FieldDescriptor) -> Option<&str> {
        let _ = field;
        None
    }
}

/// A program's description of its API, in addition to its descriptors and routes.
pub trait Describe<M>: Checks {
    /// The document's `info`: an object with at least `title` and `version`.
    fn info(&self) -> Json {
        json!({"title": "API", "version": "1"})
    }

    /// The document's `components`: `responses`, `parameters`, `headers`, `securitySchemes` and so on. Schemas under
    /// `schemas` are added to those of the messages; a message with the same name gets its full name.
    fn components(&self) -> Map<String, Json> {
        Map::new()
    }

    /// Adds what the program knows to the operation of a route: `security`, headers, errors. The operation has all else
    /// already: `operationId`, `tags`, `summary` and `description` if there is a comment, `parameters`, `requestBody`,
    /// and the response `200`.
    fn operation(&self, route: &Route<M>, operation: &mut Map<String, Json>) {
        let _ = route;
        operation["responses"]["default"] = json!({"description": "An error."});
    }
}

/// The description of an API by its descriptors alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Checks for Plain {}
impl<M> Describe<M> for Plain {}

/// The OpenAPI document of an API and its routes. Methods that take a stream are left out, because HTTP has no form for
/// them.
pub fn document<M>(pool: &DescriptorPool, routes: &Routes<M>, about: &impl Describe<M>) -> Json {
    let mut components = about.components();
    let taken = components.get("schemas").and_then(Json::as_object).cloned().unwrap_or_default();
    let names = Names::of(pool, routes, taken.keys().cloned());
    let mut schemas = Schemas::new(pool, about, names);
    let mut paths: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    let mut shapes: HashMap<String, String> = HashMap::new();
    let mut ids = BTreeSet::new();
    let mut services = BTreeSet::new();
    for route in routes.iter().filter(|route| !route.descriptor.is_client_streaming()) {
        let mut path = Path::of(route, &mut schemas);
        let known = shapes.entry(path.shape()).or_insert_with(|| path.text.clone()).clone();
        path.rename_as(&known);
        let id = operation_id(route, &schemas.names, &mut ids);
        let mut operation = operation::operation(route, id, &path, &mut schemas);
        if let Json::Object(operation) = &mut operation {
            about.operation(route, operation);
        }
        services.insert(route.descriptor.parent_service().full_name().to_owned());
        let item = paths.entry(path.text).or_default();
        match HTTP_METHODS.contains(&route.http_method.as_str()) {
            true => drop(item.insert(route.http_method.to_lowercase(), operation)),
            // OpenAPI 3.1 does not support other HTTP methods.
            false => {
                let others = item.entry("x-additional-operations").or_insert_with(|| json!({}));
                others[&route.http_method] = operation;
            }
        }
    }
    let tags: Vec<Json> = services.iter().map(|service| tag(service, pool, &schemas)).collect();
    let mut named: Map<String, Json> = schemas.into_named().into_iter().collect();
    named.extend(taken);
    components.insert("schemas".to_owned(), named.into());
    json!({
        "openapi": "3.1.0",
        "info": about.info(),
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": components,
    })
}

/// The operation's id, for example `OrderService_PlaceOrder`. Further routes of the same method get a number.
fn operation_id<M>(route: &Route<M>, names: &Names, taken: &mut BTreeSet<String>) -> String {
    let service = names.name(route.descriptor.parent_service().full_name()).replace('.', "_");
    let first = format!("{service}_{}", route.descriptor.name());
    let further = (2..).map(|number| format!("{first}_{number}"));
    let id = std::iter::once(first.clone()).chain(further).find(|id| !taken.contains(id)).unwrap_or(first);
    taken.insert(id.clone());
    id
}

fn tag(service: &str, pool: &DescriptorPool, schemas: &Schemas<'_>) -> Json {
    let mut tag = json!({"name": schemas.names.name(service)});
    let found = pool.get_service_by_name(service);
    if let Some(comment) =
        found.and_then(|of| schemas.comments.at(of.parent_file().name(), of.path()).map(str::to_owned))
    {
        tag["description"] = json!(comment);
    }
    tag
}

/// True if proto3 JSON defines a form for the type other than an object with its fields.
fn has_own_form(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.") || scalar::wrapped(message).is_some()
}
