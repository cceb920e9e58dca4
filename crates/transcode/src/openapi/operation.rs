//! One route as an OpenAPI operation: its parameters, its body, and its successful response.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value as Json, json};

use super::{
    kinds::Side,
    path::Path,
    schema::{Part, Schemas},
};
use crate::{
    message::{scalar, violation::Place},
    routes::Route,
};

/// The deepest nesting of messages whose fields are documented as query parameters.
const DEEPEST: usize = 4;

/// The operation of a route.
pub fn operation<M>(route: &Route<M>, id: String, path: &Path, schemas: &mut Schemas<'_>) -> Json {
    let method = &route.descriptor;
    let comment = schemas.comments.at(method.parent_file().name(), method.path()).unwrap_or_default().to_owned();
    let mut parameters = path.parameters.clone();
    let input = method.input();
    query(route, &input, &mut Vec::new(), &mut Vec::new(), &mut parameters, schemas);
    for header in route.binding.headers() {
        let Some(field) = input.get_field_by_name(&header.field) else { continue };
        let mut parameter = parameter(&field, header.name.clone(), true, schemas);
        parameter["in"] = json!("header");
        parameters.push(parameter);
    }
    let mut operation = json!({
        "operationId": id,
        "tags": [schemas.names.name(method.parent_service().full_name())],
        "responses": {"200": success(route, schemas)},
    });
    if !comment.is_empty() {
        operation["summary"] = json!(summary(&comment));
        operation["description"] = json!(comment);
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body(route, &input, schemas) {
        operation["requestBody"] = body;
    }
    let options = method.method_descriptor_proto().options.as_ref();
    if options.is_some_and(|options| options.deprecated()) {
        operation["deprecated"] = json!(true);
    }
    operation
}

/// The first sentence of a comment, without its full stop.
fn summary(comment: &str) -> String {
    let flat = comment.replace('\n', " ");
    let first = flat.split_once(". ").map_or(flat.as_str(), |(first, _)| first);
    first.trim_end_matches('.').to_owned()
}

/// Adds a parameter for each field that the query may contain.
fn query<M>(
    route: &Route<M>,
    message: &MessageDescriptor,
    way: &mut Vec<FieldDescriptor>,
    inside: &mut Vec<String>,
    parameters: &mut Vec<Json>,
    schemas: &mut Schemas<'_>,
) {
    for field in message.fields() {
        way.push(field.clone());
        let dotted = |name: fn(&FieldDescriptor) -> &str| way.iter().map(name).collect::<Vec<_>>().join(".");
        let (contract_name, name) = (dotted(FieldDescriptor::name), dotted(FieldDescriptor::json_name));
        if route.binding.place(&contract_name) == Place::Query && !field.is_map() {
            match field.kind() {
                Kind::Message(inner) if !comes_as_text(&inner) => {
                    let ends = inner.full_name().starts_with("google.protobuf.") || inside.len() >= DEEPEST;
                    let again = inside.iter().any(|outer| outer == inner.full_name());
                    if !field.is_list() && !ends && !again {
                        inside.push(inner.full_name().to_owned());
                        query(route, &inner, way, inside, parameters, schemas);
                        inside.pop();
                    }
                }
                _ => parameters.push(parameter(&field, name, way.len() == 1, schemas)),
            }
        }
        way.pop();
    }
}

fn comes_as_text(message: &MessageDescriptor) -> bool {
    scalar::is_textual(message) || scalar::wrapped(message).is_some() || message.full_name() == "google.protobuf.Value"
}

fn parameter(field: &FieldDescriptor, name: String, top: bool, schemas: &mut Schemas<'_>) -> Json {
    let required = top && schemas.is_required(field);
    let mut schema = schemas.field(field, Side::Parameter, required);
    let mut parameter = json!({"name": name, "in": "query"});
    for key in ["description", "deprecated"] {
        if let Some(value) = schema.remove(key) {
            parameter[key] = value;
        }
    }
    if required {
        parameter["required"] = json!(true);
    }
    if field.is_list() {
        parameter["style"] = json!("form");
        parameter["explode"] = json!(true);
    }
    parameter["schema"] = schema.into();
    parameter
}

fn body<M>(route: &Route<M>, input: &MessageDescriptor, schemas: &mut Schemas<'_>) -> Option<Json> {
    if !route.binding.takes_body() {
        return None;
    }
    let update = route.http_method == "PATCH";
    let field = route.binding.body_field();
    if route.binding.takes_anything() {
        let required = field.is_some_and(|field| schemas.is_required(field));
        // Any type is accepted, but generators of clients have no type for such a body.
        let content = json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
        let about = "Taken as it comes, whatever its `Content-Type`.";
        return Some(json!({"required": required, "description": about, "content": content}));
    }
    let inside = field.map(|field| format!("{}.", field.name())).unwrap_or_default();
    // Top-level fields of the body that the path already contains.
    let without: Vec<String> = route
        .template
        .variables
        .iter()
        .filter_map(|variable| Some(variable.field.strip_prefix(&inside)?.to_owned()))
        .filter(|name| !name.contains('.'))
        .collect();
    let message = match field {
        None => Some(input.clone()),
        Some(field) if field.is_list() || field.is_map() => None,
        Some(field) => field.kind().as_message().filter(|inner| !super::has_own_form(inner)).cloned(),
    };
    let schema = match message {
        Some(message) if without.is_empty() && !update => schemas.reference(&message, Side::Body),
        Some(message) => schemas.object(&message, Side::Body, Part { without: &without, update }),
        None => field.map(|field| Json::Object(schemas.field(field, Side::Body, true)))?,
    };
    // A request without a body is an empty message. If that is refused, the body is required.
    let required = match field {
        Some(field) => schemas.is_required(field),
        None => schemas.requires_some(&schema),
    };
    Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
}

fn success<M>(route: &Route<M>, schemas: &mut Schemas<'_>) -> Json {
    let output = route.descriptor.output();
    let (schema, about) = match route.binding.response_field() {
        Some(field) => (schemas.field(field, Side::Answer, true).into(), field.parent_message().clone()),
        None => (schemas.reference(&output, Side::Answer), output),
    };
    let description = schemas.comments.message(&about).unwrap_or("The answer.").to_owned();
    let content = if route.descriptor.is_server_streaming() {
        let stream = |description: &str| json!({"schema": {"type": "string", "description": description}, "x-item-schema": schema});
        json!({
            "text/event-stream": stream("Server-sent events; the `data` of each one is a message."),
            "application/x-ndjson": stream("A message a line."),
        })
    } else if route.binding.answers_raw() {
        json!({"*/*": {}})
    } else {
        json!({"application/json": {"schema": schema}})
    };
    json!({"description": description, "content": content})
}
