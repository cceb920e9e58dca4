//! The gateway's additions to an operation: access, headers and errors.

use serde_json::{Map, Value as Json, json};
use souk_common::contract::{AccessRule, Method, RateClass, Role};

use crate::routes::Route;

/// Adds access, headers and errors to the operation of a route.
pub fn describe(route: &Route, operation: &mut Map<String, Json>) {
    let method = &route.method;
    let access = method.access.as_ref().map(in_words).unwrap_or_default();
    let comment = operation.get("description").and_then(Json::as_str).unwrap_or_default();
    let description = format!("{comment}\n\n**Who may call it:** {access}").trim_start().to_owned();
    let mut put = |key: &str, value: Json| drop(operation.insert(key.to_owned(), value));
    put("description", json!(description));
    put("security", security(method));
    put("x-souk-access", json!(access));
    put("x-souk-rate-class", json!(rate_class(method.rate_class)));
    put("x-souk-method", json!(method.path));
    if let Some(key) = &method.idempotency_key {
        put("x-souk-idempotency-key", json!(key));
    }
    if method.deprecation.is_some() {
        put("deprecated", json!(true));
    }
    let given = operation.entry("parameters").or_insert_with(|| json!([]));
    // The query can be longer than the head of a request may be.
    let long = given.as_array().into_iter().flatten().any(|parameter| parameter["schema"]["type"] == "array");
    let ours = parameters(route);
    if let Some(given) = given.as_array_mut() {
        // After the parameters of the path and the query, before the headers that set fields.
        let at = given.iter().position(|parameter| parameter["in"] == "header").unwrap_or(given.len());
        given.splice(at..at, ours);
        if given.is_empty() {
            operation.remove("parameters");
        }
    }
    let responses = &mut operation["responses"];
    responses["200"]["headers"] = headers(route);
    let kept = is_kept(route).then_some(304);
    for status in statuses(route).into_iter().chain(long.then_some(431)).chain(kept) {
        responses[status.to_string()] = json!({"$ref": format!("#/components/responses/{status}")});
    }
}

fn rate_class(class: RateClass) -> &'static str {
    match class {
        RateClass::Read => "read",
        RateClass::Auth => "auth",
        RateClass::Write | RateClass::Unspecified => "write",
    }
}

/// Describes an access rule in words.
fn in_words(rule: &AccessRule) -> String {
    let mut ways = Vec::new();
    if rule.public {
        ways.push("anyone, also without a token".to_owned());
    }
    if rule.signed_in {
        ways.push("anyone who is signed in".to_owned());
    }
    if let Some(owner) = &rule.owner {
        ways.push(format!("signed-in callers, for their own resources (by `{owner}`)"));
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
    if rule.recent_log_in {
        words.push_str(" The log-in must be recent: otherwise the error is `REAUTHENTICATION_REQUIRED`.");
    }
    words
}

fn security(method: &Method) -> Json {
    let public = method.access.as_ref().is_some_and(|rule| rule.public);
    match (public, method.rate_class) {
        // A caller who registers or logs in has no token yet.
        (true, RateClass::Auth) => json!([]),
        (true, _) => json!([{}, {"bearer": []}]),
        (false, _) => json!([{"bearer": []}]),
    }
}

/// True if the response has an entity tag for caching. Responses to POST are never stored.
fn is_kept(route: &Route) -> bool {
    route.method.safe && !route.descriptor.is_server_streaming() && route.http_method == "GET"
}

/// The request headers of a route, by the options of its method.
fn parameters(route: &Route) -> Vec<Json> {
    let method = &route.method;
    let mut parameters = Vec::new();
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
    parameters
}

/// The response headers of a route.
fn headers(route: &Route) -> Json {
    let method = &route.method;
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
    let reference = |name: &str| (name.to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    Json::Object(headers.into_iter().map(reference).collect())
}

/// The error statuses that a method can return.
fn statuses(route: &Route) -> Vec<u16> {
    let method = &route.method;
    let mut statuses = vec![400, 401, 406, 429, 500, 503, 504];
    if !method.access.as_ref().is_some_and(|rule| rule.public) {
        statuses.push(403);
    }
    if route.descriptor.input().fields().len() > 0 {
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
