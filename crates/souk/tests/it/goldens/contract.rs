//! The descriptor set and the routes as text.

use std::{collections::BTreeMap, fmt::Write};

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use souk_common::contract::Contract;
use souk_gateway::routes::Routes;

/// Every message, enum and method of souk's own packages, by full name.
pub fn text() -> String {
    let pool = Contract::souk().unwrap().pool();
    let mut parts = BTreeMap::new();
    for message in pool.all_messages().filter(|message| message.package_name().starts_with("souk.")) {
        // The entry messages of maps have no name of their own in a contract.
        if !message.is_map_entry() {
            parts.insert(message.full_name().to_owned(), self::message(&message));
        }
    }
    for one in pool.all_enums().filter(|one| one.package_name().starts_with("souk.")) {
        parts.insert(one.full_name().to_owned(), enumeration(&one));
    }
    for service in pool.services().filter(|service| service.package_name().starts_with("souk.")) {
        let mut text = format!("service {}\n", service.full_name());
        for method in service.methods() {
            let stream = |streams| if streams { "stream " } else { "" };
            let (input, output) = (method.input(), method.output());
            writeln!(
                text,
                "  {}({}{}) -> {}{}",
                method.name(),
                stream(method.is_client_streaming()),
                input.full_name(),
                stream(method.is_server_streaming()),
                output.full_name(),
            )
            .unwrap();
            for option in options(&method.options()) {
                writeln!(text, "    {option}").unwrap();
            }
        }
        parts.insert(service.full_name().to_owned(), text);
    }
    for extension in pool.all_extensions().filter(|extension| extension.full_name().starts_with("souk.")) {
        let on = extension.containing_message();
        let (name, number, on) = (extension.full_name(), extension.number(), on.full_name());
        parts.insert(name.to_owned(), format!("extension {name} = {number} of {on}\n"));
    }
    parts.into_values().collect::<Vec<_>>().join("\n")
}

fn message(message: &MessageDescriptor) -> String {
    let mut text = format!("message {}\n", message.full_name());
    for option in options(&message.options()) {
        writeln!(text, "  option {option}").unwrap();
    }
    let reserved = message.reserved_ranges().map(|range| format!("{}..{}", range.start, range.end));
    let reserved: Vec<_> = reserved.chain(message.reserved_names().map(str::to_owned)).collect();
    if !reserved.is_empty() {
        writeln!(text, "  reserved {}", reserved.join(", ")).unwrap();
    }
    for field in message.fields() {
        writeln!(text, "  {} = {}: {}", field.name(), field.number(), kind(&field)).unwrap();
        for option in options(&field.options()) {
            writeln!(text, "    {option}").unwrap();
        }
    }
    text
}

fn kind(field: &FieldDescriptor) -> String {
    let name = |kind: Kind| match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(one) => one.full_name().to_owned(),
        plain => format!("{plain:?}"),
    };
    let mut text = match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!(
                "map of {} to {}",
                name(entry.map_entry_key_field().kind()),
                name(entry.map_entry_value_field().kind())
            )
        }
        kind if field.is_list() => format!("repeated {}", name(kind)),
        kind => name(kind),
    };
    match field.containing_oneof() {
        // The form of `optional` in proto3.
        Some(oneof) if oneof.is_synthetic() => text.insert_str(0, "optional "),
        Some(oneof) => write!(text, ", one of {}", oneof.name()).unwrap(),
        None => {}
    }
    text
}

fn enumeration(one: &EnumDescriptor) -> String {
    let mut text = format!("enum {}\n", one.full_name());
    for value in one.values() {
        writeln!(text, "  {} = {}", value.name(), value.number()).unwrap();
    }
    text
}

/// Each option that is set, as JSON.
fn options(options: &DynamicMessage) -> Vec<String> {
    let json = serde_json::to_value(options).unwrap();
    json.as_object().unwrap().iter().map(|(name, value)| format!("{name} {value}")).collect()
}

/// Every REST route, its method, and where its body goes.
pub fn routes() -> String {
    let routes = Routes::of(Contract::souk().unwrap()).unwrap();
    let mut lines: Vec<_> = routes
        .iter()
        .map(|route| format!("{} {} -> {}", route.http_method, route.template.text, route.grpc_path))
        .collect();
    lines.sort();
    lines.join("\n") + "\n"
}
