//! JSON Schemas of messages, as clients send them and as responses contain them.

use std::collections::{BTreeMap, HashSet};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use super::{
    Checks,
    behavior::{self, Behavior},
    comments::Comments,
    example,
    kinds::{self, Side},
    names::Names,
    resources::Resources,
    texts,
};
use crate::rules::Rules;

/// Fields that have the same meaning in every contract (Google's API Improvement Proposals), with a format for rules
/// that JSON Schema cannot express.
const STANDARD: [(&str, &str); 3] =
    [("page_token", "aip-158-page-token"), ("filter", "aip-160-filter"), ("order_by", "aip-132-order-by")];

/// The part of a message that a body contains.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part<'p> {
    /// Fields that are sent in the path or query.
    pub without: &'p [String],
    /// True for an update: fields that are not to change may be omitted.
    pub update: bool,
}

/// Creates schemas, and collects those that have a name.
pub struct Schemas<'c> {
    checks: &'c dyn Checks,
    /// The contract's comments.
    pub comments: Comments,
    /// The names in the document.
    pub names: Names,
    /// The contract's resources.
    pub resources: Resources,
    named: BTreeMap<String, Json>,
}

impl<'c> Schemas<'c> {
    /// Creates an empty collection.
    pub fn new(pool: &DescriptorPool, checks: &'c dyn Checks, names: Names) -> Self {
        let (comments, resources) = (Comments::of(pool), Resources::of(pool));
        Self { checks, comments, names, resources, named: BTreeMap::new() }
    }

    /// All schemas that have a name.
    pub fn into_named(self) -> BTreeMap<String, Json> {
        self.named
    }

    /// A reference to a message's schema, which is created if it does not exist.
    pub fn reference(&mut self, message: &MessageDescriptor, side: Side) -> Json {
        let full = message.full_name();
        let name = if side == Side::Answer { self.names.name(full) } else { self.names.sent(full) };
        if !self.named.contains_key(&name) {
            // Reserves the name, because a message may contain itself.
            self.named.insert(name.clone(), Json::Null);
            let schema = self.object(message, side, Part::default());
            self.named.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// The schema of a message, or of a part of it.
    pub fn object(&mut self, message: &MessageDescriptor, side: Side, part: Part<'_>) -> Json {
        let sent = side != Side::Answer;
        let refused = self.refused_when_empty(message);
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in message.fields().filter(|field| !part.without.iter().any(|name| name == field.name())) {
            let behavior = Behavior::of(&field);
            let must = match side {
                // A field in a response is always present, if only with its default, unless it has presence.
                Side::Answer => !field.supports_presence() && !self.checks.omits_defaults(),
                _ => {
                    let wanted = behavior.required && (!part.update || behavior.changeable());
                    let wanted = wanted && !(part.update && behavior::is_resource(message));
                    !behavior.output_only && (refused.contains(field.name()) || wanted)
                }
            };
            // Requests may contain output-only fields, which the service ignores, in the same form as in a response.
            let side = if behavior.output_only { Side::Answer } else { side };
            let mut schema = self.field(&field, side, must);
            if sent {
                texts::restrict(self.checks, &field, &mut schema);
            }
            if sent && (behavior.output_only || part.update && behavior.immutable) {
                schema.insert("readOnly".to_owned(), json!(true));
            }
            if sent && behavior.input_only {
                schema.insert("writeOnly".to_owned(), json!(true));
            }
            if must {
                required.push(field.json_name().to_owned());
            }
            properties.insert(field.json_name().to_owned(), schema.into());
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if let Some(comment) = self.comments.message(message) {
            schema["description"] = json!(comment);
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        // Schemas of responses stay open: a new field must not break a client that validates responses by today's
        // document.
        if sent {
            schema["additionalProperties"] = json!(false);
        }
        let choices: Vec<Json> = message
            .oneofs()
            .filter(|oneof| !oneof.is_synthetic())
            .map(|oneof| one_of(&oneof.fields().collect::<Vec<_>>(), refused.contains(oneof.name())))
            .collect();
        if !choices.is_empty() {
            schema["allOf"] = json!(choices);
        }
        schema
    }

    /// The schema of a field. `must` is true if the field must be present and not null.
    pub fn field(&mut self, field: &FieldDescriptor, side: Side, must: bool) -> Map<String, Json> {
        let rules = if side == Side::Answer { Rules::default() } else { Rules::of(field) };
        let behavior = Behavior::of(field);
        let mut schema = match field.kind() {
            Kind::Message(entry) if field.is_map() => self.map(&entry, &rules, side),
            kind if field.is_list() => {
                let items = rules.inner("items");
                let mut item = self.value(&kind, &items, side);
                give_example(&mut item, &items, None, None);
                let mut list = Map::from_iter([("type".to_owned(), json!("array")), ("items".to_owned(), item.into())]);
                rules.write(&mut list);
                list
            }
            kind => {
                let mut value = self.value(&kind, &rules, side);
                if side != Side::Answer {
                    standard(field, &mut value, must && behavior.required);
                }
                if matches!(&kind, Kind::Message(mask) if mask.full_name() == "google.protobuf.FieldMask") {
                    mask(self.checks, field, &mut value, side);
                }
                let comment = self.comments.field(field);
                let name = self.resources.name_pattern(field.name()).filter(|_| kind == Kind::String);
                give_example(&mut value, &rules, comment, name.as_deref());
                let zero = rules.zero_passes && !must && kind == Kind::String;
                if zero { or_empty(value) } else { value }
            }
        };
        if side != Side::Answer {
            texts::restrict(self.checks, field, &mut schema);
        }
        if let Some(comment) = self.comments.field(field) {
            let more = schema.get("description").and_then(Json::as_str).map(|more| format!("\n\n{more}"));
            schema.insert("description".to_owned(), json!(format!("{comment}{}", more.unwrap_or_default())));
        }
        if field.field_descriptor_proto().options.as_ref().is_some_and(|options| options.deprecated()) {
            schema.insert("deprecated".to_owned(), json!(true));
        }
        let in_oneof = field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic());
        if side == Side::Body && !must && !in_oneof { or_null(schema) } else { schema }
    }

    fn value(&mut self, kind: &Kind, rules: &Rules, side: Side) -> Map<String, Json> {
        if let Some(schema) = kinds::plain(kind, rules, side) {
            return schema;
        }
        let reference = match kind {
            Kind::Message(message) => self.reference(message, side),
            Kind::Enum(of) => {
                let name = self.names.name(of.full_name());
                if !self.named.contains_key(&name) {
                    let schema = self.enumeration(of);
                    self.named.insert(name.clone(), schema);
                }
                let mut reference = json!({"$ref": format!("#/components/schemas/{name}")});
                let refused = kinds::names(of, rules).1;
                if side != Side::Answer && !refused.is_empty() {
                    reference["not"] = json!({"enum": refused});
                }
                reference
            }
            _ => json!({}),
        };
        reference.as_object().cloned().unwrap_or_default()
    }

    /// The schema of an enum, with the names of its values.
    fn enumeration(&self, of: &prost_reflect::EnumDescriptor) -> Json {
        let values = self.comments.values(of);
        let names: Vec<_> = values.iter().map(|(name, _)| name).collect();
        let told = values.iter().filter_map(|(name, comment)| Some(format!("- `{name}`: {}", (*comment)?)));
        let about = self.comments.at(of.parent_file().name(), of.path()).map(str::to_owned);
        let text: Vec<_> = about.into_iter().chain([told.collect::<Vec<_>>().join("\n")]).collect();
        let example = names.get(1).or(names.first());
        let description = text.join("\n\n");
        let mut schema =
            json!({"type": "string", "enum": names, "examples": [example], "description": description.trim()});
        // Some languages, such as Go, have no scopes for constants and need names that are unique in the whole
        // contract. The value names of an enum inside a message are unique only in that message.
        if let Some((holder, _)) = self.names.name(of.full_name()).rsplit_once('.') {
            let names = names.iter().map(|name| format!("{}_{name}", constant(holder)));
            schema["x-enum-varnames"] = names.collect();
        }
        schema
    }

    fn map(&mut self, entry: &MessageDescriptor, rules: &Rules, side: Side) -> Map<String, Json> {
        let values = self.value(&entry.map_entry_value_field().kind(), &rules.inner("values"), side);
        let keys = match entry.map_entry_key_field().kind() {
            Kind::Bool => json!({"enum": ["true", "false"]}),
            Kind::String => {
                let mut keys = Map::new();
                rules.inner("keys").write(&mut keys);
                Json::Object(keys)
            }
            kind => {
                let sign =
                    if matches!(kind, Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64) { "" } else { "-?" };
                let long = matches!(kind, Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64);
                json!({"pattern": format!("^{sign}[0-9]{{1,{}}}$", if long { 18 } else { 9 })})
            }
        };
        let mut map =
            Map::from_iter([("type".to_owned(), json!("object")), ("additionalProperties".to_owned(), values.into())]);
        if keys != json!({}) {
            map.insert("propertyNames".to_owned(), keys);
        }
        rules.write(&mut map);
        map
    }

    /// True if a request without the field is refused.
    pub fn is_required(&self, field: &FieldDescriptor) -> bool {
        Behavior::of(field).required || self.refused_when_empty(field.parent_message()).contains(field.name())
    }

    /// True if a body's schema has a required field.
    pub fn requires_some(&self, schema: &Json) -> bool {
        let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let schema = name.and_then(|name| self.named.get(name)).unwrap_or(schema);
        schema.get("required").is_some()
    }

    /// The names of the fields and oneofs that the contract's checks refuse if they are empty.
    fn refused_when_empty(&self, message: &MessageDescriptor) -> HashSet<String> {
        self.checks.refused_when_empty(message).into_iter().collect()
    }
}

/// A name in the form of a constant: `PlaceOrderRequest.Item` becomes `PLACE_ORDER_REQUEST_ITEM`.
fn constant(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 8);
    let mut before = '_';
    for character in name.chars().map(|character| if character == '.' { '_' } else { character }) {
        if character.is_uppercase() && before != '_' && !before.is_uppercase() {
            text.push('_');
        }
        text.extend(character.to_uppercase());
        before = character;
    }
    text
}

/// Adds the meaning of a standard field to its schema, and of a required field.
fn standard(field: &FieldDescriptor, schema: &mut Map<String, Json>, required: bool) {
    let mut put = |key: &str, value: Json| drop(schema.insert(key.to_owned(), value));
    match field.full_name() {
        // Patterns by the comments of the types.
        "google.type.Money.currency_code" => {
            put("pattern", json!("^[A-Z]{3}$"));
            put("format", json!("iso-4217"));
            put("examples", json!(["EUR"]));
        }
        "google.type.Money.nanos" => {
            put("minimum", json!(-999_999_999));
            put("maximum", json!(999_999_999));
            put("examples", json!([0]));
        }
        _ if field.kind() == Kind::String && !field.is_list() => {
            if let Some((_, format)) = STANDARD.iter().find(|(name, _)| *name == field.name()) {
                put("format", json!(format));
            }
            let bare = ["pattern", "format", "minLength", "enum", "const"].iter().all(|key| !schema.contains_key(*key));
            if required && bare {
                schema.insert("minLength".to_owned(), json!(1));
            }
        }
        _ => {}
    }
}

/// At most one of these fields, or exactly one.
fn one_of(fields: &[FieldDescriptor], required: bool) -> Json {
    let there: Vec<Json> = fields.iter().map(|field| json!({"required": [field.json_name()]})).collect();
    let none = json!({"not": {"anyOf": there}});
    let choices: Vec<Json> = there.into_iter().chain((!required).then_some(none)).collect();
    json!({"oneOf": choices})
}

/// Also allows null, which means "not set".
fn or_null(mut schema: Map<String, Json>) -> Map<String, Json> {
    if let Some(Json::Array(values)) = schema.get_mut("enum") {
        values.push(Json::Null);
    }
    match schema.get("type") {
        Some(Json::Array(types)) => {
            let types = types.iter().cloned().chain([json!("null")]).collect();
            schema.insert("type".to_owned(), types);
        }
        Some(Json::String(one)) if one != "null" => {
            let types = json!([one, "null"]);
            schema.insert("type".to_owned(), types);
        }
        None if schema.contains_key("$ref") || schema.contains_key("anyOf") => {
            let mut outside = Map::new();
            for key in ["description", "deprecated", "examples"] {
                outside.extend(schema.remove(key).map(|value| (key.to_owned(), value)));
            }
            outside.insert("anyOf".to_owned(), json!([schema, {"type": "null"}]));
            return outside;
        }
        _ => {}
    }
    schema
}

/// The pattern of the contract's checks for an email address, as HTML defines it.
const EMAIL: &str = "^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\
    (?:\\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";

/// Also allows an empty string, which means "not set", too.
fn or_empty(mut schema: Map<String, Json>) -> Map<String, Json> {
    let mut set = Map::new();
    for key in ["pattern", "format", "minLength", "enum", "const", "anyOf"] {
        set.extend(schema.remove(key).map(|value| (key.to_owned(), value)));
    }
    // Replaces the format by a pattern, because generators of clients make no types of a choice between texts.
    if set.len() == 1 && set.get("format") == Some(&json!("email")) {
        set = Map::from_iter([("pattern".to_owned(), json!(EMAIL))]);
    }
    match set.get("pattern").and_then(Json::as_str) {
        // If the schema has only a pattern, the pattern itself allows the empty string.
        Some(pattern) if set.len() == 1 => schema.insert("pattern".to_owned(), json!(format!("^$|{pattern}"))),
        _ => schema.insert("anyOf".to_owned(), json!([{"maxLength": 0}, set])),
    };
    schema
}

/// Describes a field mask: it names fields that can change, of the resource in the same request.
fn mask(checks: &dyn Checks, field: &FieldDescriptor, schema: &mut Map<String, Json>, side: Side) {
    if side == Side::Answer {
        return;
    }
    let Some(resource) = behavior::resource_in(field.parent_message()) else {
        let paths = field.kind().as_message().and_then(|mask| mask.get_field_by_name("paths"));
        if let Some(pattern) = paths.and_then(|paths| checks.text_pattern(&paths)) {
            schema.insert("pattern".to_owned(), json!(pattern));
        }
        return;
    };
    let changeable = resource.fields().filter(|inner| Behavior::of(inner).changeable() && inner.name() != "etag");
    let names: Vec<_> = changeable.map(|inner| inner.json_name().to_owned()).collect();
    let any = names.join("|");
    schema.insert("pattern".to_owned(), json!(format!("^(?:(?:{any})(?:,(?:{any}))*)?$")));
    schema.insert("examples".to_owned(), json!([names.first()]));
}

/// Adds an example, if a valid one can be derived.
fn give_example(schema: &mut Map<String, Json>, rules: &Rules, comment: Option<&str>, name_pattern: Option<&str>) {
    if schema.contains_key("examples") || schema.contains_key("$ref") {
        return;
    }
    let kind = match schema.get("type") {
        Some(Json::Array(types)) => types.first().and_then(Json::as_str).map(str::to_owned),
        Some(Json::String(one)) => Some(one.clone()),
        _ => None,
    };
    let pattern = schema.get("pattern").and_then(Json::as_str);
    let fits = |text: &String| pattern.is_none_or(|pattern| example::matches(pattern, text));
    let value = match (kind.as_deref(), schema.get("format").and_then(Json::as_str)) {
        (_, Some("date-time")) => json!("2026-01-31T12:00:00Z"),
        (_, Some("email")) => json!("ann@example.com"),
        (_, Some("int64" | "uint64" | "int32" | "uint32")) => {
            let limit = |key: &str| schema.get(key).and_then(Json::as_i64);
            // A small example, above zero if that is allowed.
            let number = 1.clamp(limit("minimum").unwrap_or(1), limit("maximum").unwrap_or(1).max(1));
            if kind.as_deref() == Some("string") { json!(number.to_string()) } else { json!(number) }
        }
        (Some("string"), _) if schema.contains_key("enum") => {
            // The first value usually means "not given".
            let names = schema.get("enum").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
            let given = names.iter().find(|name| name.as_str().is_some_and(|name| !name.ends_with("_UNSPECIFIED")));
            json!(given.or(names.first()))
        }
        (Some("string"), _) => {
            let written = rules.example().or_else(|| comment.and_then(example::from_comment)).filter(fits);
            let pattern = pattern.or(name_pattern);
            match written.or_else(|| example::from_pattern(pattern?)) {
                Some(text) => json!(text),
                None => return,
            }
        }
        _ => return,
    };
    schema.insert("examples".to_owned(), json!([value]));
}
