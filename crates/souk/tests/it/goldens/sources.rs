//! Reads from the sources what no run shows completely: the log lines and the types of events.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use souk_common::contract::Contract;

/// Macros that log or open a span.
const MACROS: &str =
    r"\b(?:tracing::)?(trace|debug|info|warn|error|trace_span|debug_span|info_span|warn_span|error_span)!\s*\(";

/// Every macro that logs or opens a span: its level, its message or name, and its fields.
pub fn logs() -> String {
    let macros = Regex::new(MACROS).unwrap();
    let mut found = BTreeSet::new();
    for source in product_sources() {
        for call in macros.captures_iter(&source) {
            let whole = call.get(0).unwrap();
            let mut messages = Vec::new();
            let mut fields = Vec::new();
            for argument in arguments(&source[whole.end()..]) {
                match argument.strip_prefix('"') {
                    Some(message) if messages.is_empty() => messages.push(message.trim_end_matches('"').to_owned()),
                    // A value in the message.
                    _ if !messages.is_empty() && !whole.as_str().contains("span") => {}
                    _ => fields.push(field(&argument)),
                }
            }
            fields.retain(|field| !field.is_empty());
            fields.sort();
            let message = messages.pop().unwrap_or_default();
            found.insert(format!("{} \"{message}\" {}", &call[1], fields.join(" ")).trim_end().to_owned());
        }
    }
    assert!(found.len() > 50, "the scanner finds only {} lines", found.len());
    found.into_iter().collect::<Vec<_>>().join("\n") + "\n"
}

/// The name of a field: of `order = %id`, `%id`, `?id` and `id`.
fn field(argument: &str) -> String {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    // `target:` and `parent:` are arguments of the macro, not fields.
    if name.contains(':') && !argument.contains('=') {
        return String::new();
    }
    name.trim().trim_start_matches(['%', '?', '&', '*']).trim_matches('"').to_owned()
}

/// The arguments of a macro. The text begins after its opening bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let (mut found, mut one) = (Vec::new(), String::new());
    for letter in text.chars() {
        if quoted {
            quoted = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            one.push(letter);
            continue;
        }
        match letter {
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ')' => break,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut one));
                continue;
            }
            _ => {}
        }
        one.push(letter);
    }
    found.push(one);
    // A text over several lines continues after a backslash.
    let found = found.iter().map(|one| one.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" "));
    found.filter(|one| !one.is_empty()).collect()
}

/// Every type of event: texts such as `order.placed` in the services, without paths of fields and settings.
pub fn events() -> String {
    let types = Regex::new(r#""((?:order|product|stock)\.[a-z_]+)""#).unwrap();
    let pool = Contract::souk().unwrap().pool();
    let is_field = |text: &str| {
        let (noun, field) = text.split_once('.').unwrap();
        let mut messages = pool.all_messages().filter(|message| message.name().eq_ignore_ascii_case(noun));
        messages.any(|message| message.get_field_by_name(field).is_some())
    };
    let sources = product_sources();
    let setting = Regex::new(r"(?m)^(\w+) = ").unwrap();
    let settings: BTreeSet<_> = setting.captures_iter(&default_settings()).map(|found| found[1].to_owned()).collect();
    let is_setting = |text: &str| settings.contains(text.split_once('.').unwrap().1);
    let texts = sources.iter().flat_map(|source| types.captures_iter(source)).map(|found| found[1].to_owned());
    let found: BTreeSet<_> = texts.filter(|text| !is_field(text) && !is_setting(text)).collect();
    found.into_iter().collect::<Vec<_>>().join("\n") + "\n"
}

/// Every instrument, and every label of one.
pub fn metrics() -> String {
    let instruments = Regex::new(r#"(?:counter|histogram|gauge|seconds|active)\(\s*"([a-z_.]+)""#).unwrap();
    let labels = Regex::new(r#"KeyValue::new\(\s*"([a-z_.]+)""#).unwrap();
    let sources = product_sources();
    let mut found = BTreeSet::new();
    for (what, pattern) in [("instrument", instruments), ("label", labels)] {
        let names = sources.iter().flat_map(|source| pattern.captures_iter(source));
        found.extend(names.map(|name| format!("{what} {}", &name[1])));
    }
    found.into_iter().collect::<Vec<_>>().join("\n") + "\n"
}

/// The sources of the crates in the binary, up to their tests.
fn product_sources() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["crates", "services"] {
        for package in fs::read_dir(root.join(folder)).unwrap() {
            let package = package.unwrap().path();
            if !package.ends_with("testkit") && !package.ends_with("bench") {
                collect(&package.join("src"), &mut files);
            }
        }
    }
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let product = texts.map(|text| text.split("\n#[cfg(test)]\nmod ").next().unwrap().to_owned());
    // Removes lines that are comments, which may appear among arguments.
    product
        .map(|text| {
            text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
        })
        .collect()
}

/// Every setting of the services that announce events.
fn default_settings() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services");
    ["inventory", "order"].map(|name| fs::read_to_string(root.join(name).join("default.toml")).unwrap()).concat()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}
