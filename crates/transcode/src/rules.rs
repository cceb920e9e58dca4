//! Reads the rules of `buf.validate` from the options of fields, as limits of values and as JSON Schema. The rules are
//! not checked: a rule that is unknown, or does not fit its field, is ignored.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, ReflectMessage, Value};
use serde_json::{Map, Value as Json, json};

/// Inclusive bounds.
pub type Range = (i128, i128);

/// The rules of a field, of its items, keys or values.
#[derive(Debug, Default)]
pub struct Rules {
    /// True if a zero value is valid, whatever the other rules say.
    pub zero_passes: bool,
    /// The rules of the field's type, and their name in `FieldRules`: `string`.
    typed: Option<(String, DynamicMessage)>,
}

impl Rules {
    /// The rules of a field.
    pub fn of(field: &FieldDescriptor) -> Self {
        let extension = field.parent_file().parent_pool().get_extension_by_name("buf.validate.field");
        let options = field.options();
        match extension.map(|extension| options.get_extension(&extension).into_owned()) {
            Some(Value::Message(rules)) => Self::read(&rules),
            _ => Self::default(),
        }
    }

    fn read(rules: &DynamicMessage) -> Self {
        let ignore = rules.get_field_by_name("ignore").and_then(|value| value.as_enum_number());
        let typed = rules.fields().find_map(|(field, value)| {
            field.containing_oneof()?;
            Some((field.name().to_owned(), value.as_message()?.clone()))
        });
        // 3 is IGNORE_ALWAYS, 1 is IGNORE_IF_ZERO_VALUE.
        Self { zero_passes: ignore == Some(1), typed: if ignore == Some(3) { None } else { typed } }
    }

    /// The rules of a list's items, a map's keys or its values.
    pub fn inner(&self, which: &str) -> Self {
        match self.get(which) {
            Some(Value::Message(rules)) => Self::read(&rules),
            _ => Self::default(),
        }
    }

    /// The value of a rule of the type, if it is set.
    fn get(&self, rule: &str) -> Option<Value> {
        let rules = &self.typed.as_ref()?.1;
        let field = rules.descriptor().get_field_by_name(rule)?;
        rules.has_field(&field).then(|| rules.get_field(&field).into_owned())
    }

    fn list(&self, rule: &str) -> Vec<Value> {
        match self.get(rule) {
            Some(Value::List(values)) => values,
            _ => Vec::new(),
        }
    }

    /// The pattern of a string.
    pub fn pattern(&self) -> Option<String> {
        self.get("pattern")?.as_str().map(str::to_owned)
    }

    /// The maximum length of a valid string in characters, or of valid bytes in bytes; `None` if there is no limit.
    pub fn longest(&self) -> Option<usize> {
        let limits = ["len", "max_len", "len_bytes", "max_bytes"];
        limits.iter().filter_map(|rule| usize::try_from(self.get(rule)?.as_u64()?).ok()).min()
    }

    /// The most items of a valid list; `None` if there is no limit.
    pub fn most_items(&self) -> Option<usize> {
        usize::try_from(self.get("max_items")?.as_u64()?).ok()
    }

    /// The example in the contract.
    pub fn example(&self) -> Option<String> {
        self.list("example").first()?.as_str().map(str::to_owned)
    }

    /// The valid whole numbers, among those in `all`.
    pub fn ranges(&self, all: Range) -> Vec<Range> {
        let number = |rule: &str| self.get(rule).as_ref().and_then(whole);
        let numbers = |rule: &str| self.list(rule).iter().filter_map(whole).collect::<Vec<_>>();
        let mut only = numbers("in");
        only.extend(number("const"));
        if !only.is_empty() {
            only.sort_unstable();
            return only.into_iter().map(|number| (number, number)).collect();
        }
        let low = number("gte").or(number("gt").map(|limit| limit + 1));
        let high = number("lte").or(number("lt").map(|limit| limit - 1));
        let mut ranges = match (low, high) {
            // If the limits are reversed, the numbers between them are invalid.
            (Some(low), Some(high)) if high < low => vec![(all.0, high), (low, all.1)],
            (low, high) => vec![(low.unwrap_or(all.0), high.unwrap_or(all.1))],
        };
        for denied in numbers("not_in") {
            let split = |(low, high): Range| match (low..=high).contains(&denied) {
                true => vec![(low, denied - 1), (denied + 1, high)],
                false => vec![(low, high)],
            };
            ranges = ranges.into_iter().flat_map(split).filter(|(low, high)| low <= high).collect();
        }
        ranges
    }

    /// The valid numbers of an enum; `None` if any number is valid.
    pub fn numbers(&self, of: &EnumDescriptor) -> Option<Vec<i32>> {
        let mut only: Vec<i32> = self.list("in").iter().filter_map(Value::as_i32).collect();
        only.extend(self.get("const").and_then(|value| value.as_i32()));
        if only.is_empty() {
            let defined = self.get("defined_only").and_then(|value| value.as_bool()) == Some(true);
            if !defined && self.list("not_in").is_empty() {
                return None;
            }
            only = of.values().map(|value| value.number()).collect();
        }
        let denied: Vec<i32> = self.list("not_in").iter().filter_map(Value::as_i32).collect();
        only.retain(|number| !denied.contains(number));
        Some(only)
    }

    /// Writes the rules of strings, bytes, lists, maps, booleans and fractions into a schema. Rules that JSON Schema
    /// cannot express are named in the description.
    pub fn write(&self, schema: &mut Map<String, Json>) {
        let Some((kind, rules)) = &self.typed else { return };
        let mut unsaid = Vec::new();
        for (field, value) in rules.fields() {
            let rule = field.name();
            if !write(kind, rule, value, schema) && rule != "example" {
                unsaid.push(format!("`{kind}.{rule}`"));
            }
        }
        if !unsaid.is_empty() {
            let description = schema.entry("description").or_insert_with(|| json!(""));
            let text = description.as_str().unwrap_or_default();
            *description = json!(format!("{text}\n\nAlso checked: {}.", unsaid.join(", ")).trim_start());
        }
    }
}

/// Writes one rule. Returns false if JSON Schema cannot express it.
fn write(kind: &str, rule: &str, value: &Value, schema: &mut Map<String, Json>) -> bool {
    let mut put = |key: &str, value: Json| drop(schema.insert(key.to_owned(), value));
    match (kind, rule, value) {
        ("string", "len", Value::U64(n)) => {
            put("minLength", json!(n));
            put("maxLength", json!(n));
        }
        ("string", "min_len", Value::U64(n)) => put("minLength", json!(n)),
        ("string", "max_len", Value::U64(n)) => put("maxLength", json!(n)),
        ("string" | "bool", "const", value) => put("const", plain(value)),
        ("string", "in", Value::List(values)) => put("enum", values.iter().map(plain).collect()),
        ("string", "not_in", Value::List(values)) => {
            put("not", json!({"enum": values.iter().map(plain).collect::<Vec<_>>()}));
        }
        ("string", "pattern", Value::String(pattern)) => put("pattern", json!(pattern)),
        ("string", "email" | "hostname" | "ipv4" | "ipv6" | "uri" | "uuid", Value::Bool(wanted)) => {
            if *wanted {
                put("format", json!(rule));
            }
        }
        ("string", "uri_ref", Value::Bool(true)) => put("format", json!("uri-reference")),
        ("string", "ip", Value::Bool(true)) => put("anyOf", json!([{"format": "ipv4"}, {"format": "ipv6"}])),
        // Base64 has four characters for each three bytes.
        ("bytes", "max_len", Value::U64(n)) => put("maxLength", json!(n.div_ceil(3) * 4)),
        ("bytes", "min_len", Value::U64(n)) => put("minLength", json!((n * 4).div_ceil(3))),
        ("repeated", "min_items", Value::U64(n)) => put("minItems", json!(n)),
        ("repeated", "max_items", Value::U64(n)) => put("maxItems", json!(n)),
        ("repeated", "unique", Value::Bool(unique)) => put("uniqueItems", json!(unique)),
        ("map", "min_pairs", Value::U64(n)) => put("minProperties", json!(n)),
        ("map", "max_pairs", Value::U64(n)) => put("maxProperties", json!(n)),
        // The callers write these into the schemas of items, keys and values.
        ("repeated", "items", _) | ("map", "keys" | "values", _) => {}
        ("float" | "double", "gte", value) => put("minimum", plain(value)),
        ("float" | "double", "gt", value) => put("exclusiveMinimum", plain(value)),
        ("float" | "double", "lte", value) => put("maximum", plain(value)),
        ("float" | "double", "lt", value) => put("exclusiveMaximum", plain(value)),
        ("float" | "double", "finite", _) => {}
        // Whole numbers and enums have their rules in ranges and lists.
        ("enum", _, _) => {}
        (kind, _, _) if kind.contains("int") || kind.contains("fixed") => {}
        _ => return false,
    }
    true
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::String(text) => json!(text),
        Value::F32(number) => json!(number),
        Value::F64(number) => json!(number),
        _ => Json::Null,
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::I32(number) => Some((*number).into()),
        Value::I64(number) => Some((*number).into()),
        Value::U32(number) => Some((*number).into()),
        Value::U64(number) => Some((*number).into()),
        _ => None,
    }
}
