//! The form of a problem on REST: `application/problem+json` of RFC 9457.
use serde_json::{Map, Value, json};

use super::{NAME_BYTES, Problem, shorten};

impl Problem {
    /// The problem as `application/problem+json`. `request_id` is the key to find the request in the logs, and
    /// `instance` is the path of the request. Members without a value are omitted.
    pub fn to_json(&self, request_id: &str, instance: &str) -> Value {
        let inner = &*self.0;
        let mut body = Map::new();
        body.insert("type".into(), format!("/errors/{}", self.reason_name()).into());
        body.insert("title".into(), self.title().into());
        body.insert("status".into(), self.http_status().into());
        body.insert("detail".into(), self.message().into());
        if !instance.is_empty() {
            body.insert("instance".into(), shorten(instance, 4 * NAME_BYTES).into());
        }
        body.insert("reason".into(), self.reason_name().into());
        if !request_id.is_empty() {
            body.insert("request_id".into(), request_id.into());
        }
        if !inner.fields.is_empty() {
            let fields = inner.fields.iter().map(|field| {
                json!({
                    "pointer": pointer(&field.path),
                    "field": field.path,
                    "detail": field.description,
                })
            });
            body.insert("errors".into(), fields.collect());
        }
        if !inner.violations.is_empty() {
            let violations = inner.violations.iter().map(|violation| {
                json!({
                    "type": violation.kind,
                    "subject": violation.subject,
                    "description": violation.description,
                })
            });
            body.insert("violations".into(), violations.collect());
        }
        if let Some(resource) = &inner.resource {
            body.insert("resource".into(), resource.name.as_str().into());
        }
        if !inner.metadata.is_empty() {
            body.insert("metadata".into(), json!(inner.metadata));
        }
        if let Some(passed) = &inner.passed {
            passed.write(&mut body);
        }
        if let Some(delay) = inner.retry_after {
            // Rounded up to whole seconds, as in the header: a retry that comes too early would be refused again.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            body.insert("retry_after".into(), seconds.into());
        }
        Value::Object(body)
    }
}

/// Converts a field path of the contract to a JSON pointer (RFC 6901) into the JSON of the request, whose names are in
/// lowerCamelCase: `items[0].unit_price` becomes `/items/0/unitPrice`, `labels["a/b"]` becomes `/labels/a~1b`.
fn pointer(path: &str) -> String {
    let mut pointer = String::with_capacity(path.len() + 1);
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(subscript) = rest.strip_prefix('[') {
            let (key, after) = subscripted(subscript);
            pointer.push('/');
            pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            pointer.push('/');
            push_json_name(&mut pointer, &name[..end]);
            rest = &name[end..];
        }
    }
    pointer
}

/// Splits a subscript (without its opening bracket) into its key and the text after its closing bracket.
fn subscripted(subscript: &str) -> (String, &str) {
    let Some(quoted) = subscript.strip_prefix('"') else {
        let end = subscript.find(']').unwrap_or(subscript.len());
        return (subscript[..end].to_owned(), subscript.get(end + 1..).unwrap_or(""));
    };
    let mut key = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => key.extend(characters.next().map(|(_, escaped)| escaped)),
            '"' => return (key, quoted[at + 1..].strip_prefix(']').unwrap_or("")),
            other => key.push(other),
        }
    }
    (key, "")
}

/// Appends the name that protobuf's JSON mapping gives to a field.
fn push_json_name(pointer: &mut String, field: &str) {
    let mut capital = false;
    for character in field.chars() {
        match character {
            '_' => capital = true,
            other if capital => {
                capital = false;
                pointer.push(other.to_ascii_uppercase());
            }
            other => pointer.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Reason;
    use super::*;

    #[test]
    fn field_paths_become_json_pointers() {
        let cases = [
            ("", ""),
            ("name", "/name"),
            ("items[0].quantity", "/items/0/quantity"),
            ("items[12].unit_price.currency_code", "/items/12/unitPrice/currencyCode"),
            (r#"labels["a/b~c"].value"#, "/labels/a~1b~0c/value"),
            (r#"labels["a\"].b"]"#, r#"/labels/a"].b"#),
            ("counts[-3]", "/counts/-3"),
            // Malformed paths, which must not cause a panic.
            ("a[", "/a/"),
            (r#"a["b"#, "/a/b"),
            ("a..b", "/a//b"),
        ];
        for (path, expected) in cases {
            assert_eq!(pointer(path), expected, "{path}");
        }
    }

    #[test]
    fn a_problem_with_every_member_as_json() {
        let problem = Problem::invalid("items[0].quantity", "must be at least 1")
            .violation("STOCK", "products/prd_a", "none left")
            .metadata("limit", 3)
            .resource("souk/Order", "orders/ord_a")
            .retry_after(Duration::from_millis(1001))
            .caused_by("secret");
        assert_eq!(
            problem.to_json("req-1", "/v1/orders"),
            json!({
                "type": "/errors/FIELD_INVALID",
                "title": "A field is not valid",
                "status": 400,
                "detail": "items[0].quantity must be at least 1",
                "instance": "/v1/orders",
                "reason": "FIELD_INVALID",
                "request_id": "req-1",
                "errors": [{
                    "pointer": "/items/0/quantity",
                    "field": "items[0].quantity",
                    "detail": "must be at least 1",
                }],
                "violations": [{
                    "type": "STOCK",
                    "subject": "products/prd_a",
                    "description": "none left",
                }],
                "resource": "orders/ord_a",
                "metadata": {"limit": "3"},
                "retry_after": 2,
            })
        );
    }

    #[test]
    fn members_without_a_value_are_omitted() {
        let body = Problem::new(Reason::StateConflict, "cancelled already").to_json("", "");
        let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["detail", "reason", "status", "title", "type"]);
    }
}
