//! One route as an OpenAPI operation: its parameters, its body, and all it can answer.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};
use souk_common::contract::{AccessRule, Method, RateClass, Role};

use super::{
    kinds::Side,
    path::Path,
    schema::{Part, Schemas},
};
use crate::{
    routes::Route,
    transcode::{scalar, violation::Place},
};

/// Messages inside messages that a query may reach, as far as it is told.
const DEEPEST: usize = 4;

/// The operation of a route.
pub fn operation(route: &Route, id: String, path: &Path, schemas: &mut Schemas<'_>) -> Json {
    let method = &*route.method;
    let comment = schemas.comments.at(method.descriptor.parent_file().name(), method.descriptor.path());
    let comment = comment.unwrap_or_default().to_owned();
    let access = method.access.as_ref().map(in_words).unwrap_or_default();
    let mut parameters = path.parameters.clone();
    let input = method.descriptor.input();
    query(route, &input, &mut Vec::new(), &mut Vec::new(), &mut parameters, schemas);
    let long = parameters.iter().any(|parameter| parameter["schema"]["type"] == "array");
    headers(route, &mut parameters);
    for header in &method.headers {
        let Some(field) = input.get_field_by_name(&header.field) else { continue };
        let mut parameter = parameter(&field, header.name.clone(), true, schemas);
        parameter["in"] = json!("header");
        parameters.push(parameter);
    }
    let mut operation = json!({
        "operationId": id,
        "tags": [schemas.names.name(&method.service)],
        "summary": summary(&comment),
        "description": format!("{comment}\n\n**Who may call it:** {access}").trim_start(),
        "security": security(method),
        "x-souk-access": access,
        "x-souk-rate-class": rate_class(method.rate_class),
        "x-souk-method": method.path,
        "responses": responses(route, long, schemas),
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body(route, &input, schemas) {
        operation["requestBody"] = body;
    }
    if let Some(key) = &method.idempotency_key {
        operation["x-souk-idempotency-key"] = json!(key);
    }
    let options = method.descriptor.method_descriptor_proto().options.as_ref();
    if method.deprecation.is_some() || options.is_some_and(|options| options.deprecated()) {
        operation["deprecated"] = json!(true);
    }
    operation
}

/// The first sentence, without its full stop.
fn summary(comment: &str) -> String {
    let flat = comment.replace('\n', " ");
    let first = flat.split_once(". ").map_or(flat.as_str(), |(first, _)| first);
    first.trim_end_matches('.').to_owned()
}

fn rate_class(class: RateClass) -> &'static str {
    match class {
        RateClass::Read => "read",
        RateClass::Auth => "auth",
        RateClass::Write | RateClass::Unspecified => "write",
    }
}

/// An access rule as people say it.
fn in_words(rule: &AccessRule) -> String {
    let mut ways = Vec::new();
    if rule.public {
        ways.push("anyone, also without a token".to_owned());
    }
    if rule.signed_in {
        ways.push("anyone who is signed in".to_owned());
    }
    if let Some(owner) = &rule.owner {
        ways.push(format!("anyone who is signed in, for what is theirs (by `{owner}`)"));
    }
    for role in rule.roles.iter() {
        ways.push(match role {
            Role::Staff => "staff (`ROLE_STAFF`, `ROLE_ADMIN`)".to_owned(),
            Role::Admin => "administrators (`ROLE_ADMIN`)".to_owned(),
        });
    }
    let mut words = ways.join("; ");
    if let Some(scope) = &rule.scope {
        words.push_str(&format!(". A token that is limited to scopes needs `{scope}`"));
    } else if !rule.public {
        words.push_str(". Not with a token that is limited to scopes");
    }
    words.push('.');
    words
}

fn security(method: &Method) -> Json {
    let public = method.access.as_ref().is_some_and(|rule| rule.public);
    match (public, method.rate_class) {
        // Who registers or logs in has no token yet.
        (true, RateClass::Auth) => json!([]),
        (true, _) => json!([{}, {"bearer": []}]),
        (false, _) => json!([{"bearer": []}]),
    }
}

/// Adds a parameter for each field that comes in the query.
fn query(
    route: &Route,
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

/// Whether an answer has an entity tag that a client can keep it by: answers to POST are never stored.
fn is_kept(route: &Route) -> bool {
    route.method.safe && !route.method.descriptor.is_server_streaming() && route.http_method == "GET"
}

fn headers(route: &Route, parameters: &mut Vec<Json>) {
    let method = &route.method;
    let mut add = |name: &str| parameters.push(json!({"$ref": format!("#/components/parameters/{name}")}));
    if method.idempotency_key.is_some() {
        add("Idempotency-Key");
    }
    if is_kept(route) {
        add("If-None-Match");
    }
    if method.etag.is_some() {
        add("If-Match");
    }
    if method.cursor.is_some() {
        add("Last-Event-ID");
    }
}

fn body(route: &Route, input: &MessageDescriptor, schemas: &mut Schemas<'_>) -> Option<Json> {
    if !route.binding.takes_body() {
        return None;
    }
    let update = route.http_method == "PATCH";
    let field = route.binding.body_field();
    if route.binding.takes_anything() {
        let required = field.is_some_and(|field| schemas.is_required(field));
        // Whatever type it has; but generators of clients know no body of any type.
        let content = json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
        let about = "Taken as it comes, whatever its `Content-Type`.";
        return Some(json!({"required": required, "description": about, "content": content}));
    }
    let inside = field.map(|field| format!("{}.", field.name())).unwrap_or_default();
    // Fields at the body's top that the path has already.
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
    // Without a body a message is empty; where that is refused, the body must be there.
    let required = match field {
        Some(field) => schemas.is_required(field),
        None => schemas.requires_some(&schema),
    };
    Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
}

/// `long`: the query can be longer than a request's head may be.
fn responses(route: &Route, long: bool, schemas: &mut Schemas<'_>) -> Json {
    let mut responses = Map::from_iter([("200".to_owned(), success(route, schemas))]);
    for status in statuses(route).into_iter().chain(long.then_some(431)) {
        responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{status}")}));
    }
    if is_kept(route) {
        responses.insert("304".to_owned(), json!({"$ref": "#/components/responses/304"}));
    }
    responses.into()
}

/// The statuses of the errors that a method can give.
fn statuses(route: &Route) -> Vec<u16> {
    let method = &*route.method;
    let mut statuses = vec![400, 401, 406, 429, 500, 503, 504];
    if !method.access.as_ref().is_some_and(|rule| rule.public) {
        statuses.push(403);
    }
    if method.descriptor.input().fields().len() > 0 {
        statuses.push(404);
    }
    if !method.safe {
        statuses.push(409);
    }
    if method.etag.is_some() {
        statuses.push(412);
    }
    if route.binding.takes_body() {
        statuses.extend([413, 415]);
    }
    if method.idempotency_key.is_some() {
        statuses.push(422);
    }
    statuses
}

fn success(route: &Route, schemas: &mut Schemas<'_>) -> Json {
    let method = &*route.method;
    let output = method.descriptor.output();
    let (schema, about) = match route.binding.response_field() {
        Some(field) => (schemas.field(field, Side::Answer, true).into(), field.parent_message().clone()),
        None => (schemas.reference(&output, Side::Answer), output),
    };
    let description = schemas.comments.message(&about).unwrap_or("The answer.").to_owned();
    let content = if method.descriptor.is_server_streaming() {
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
    let mut headers = vec!["X-Request-Id"];
    if is_kept(route) {
        headers.push("ETag");
    }
    if method.idempotency_key.is_some() {
        headers.push("Idempotent-Replayed");
    }
    if method.deprecation.is_some() {
        headers.push("Deprecation");
    }
    if method.deprecation.as_ref().is_some_and(|deprecation| deprecation.sunset.is_some()) {
        headers.push("Sunset");
    }
    let headers: Map<String, Json> = headers
        .into_iter()
        .map(|name| (name.to_owned(), json!({"$ref": format!("#/components/headers/{name}")})))
        .collect();
    json!({"description": description, "headers": headers, "content": content})
}
