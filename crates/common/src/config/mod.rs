//! Settings: built-in commented defaults, then a file, then `SOUK_*` variables. They are checked before a port is
//! bound.
//!
//! ```no_run
//! # #[derive(serde::Deserialize)] struct OrderConfig {}
//! # fn main() -> Result<(), souk_common::config::ConfigError> {
//! use souk_common::config::Loader;
//!
//! let settings = Loader::new()
//!     .defaults("order", "[order]\nlease = \"30s\"\n")
//!     .file(None)
//!     .env()
//!     .load()?;
//! let order: OrderConfig = settings.section("order")?;
//! # Ok(())
//! # }
//! ```
//!
//! Every legal setting is in one of the default texts, and is not commented out. So the default texts define three
//! things at once: the output of `souk default-config`, the known settings, and the type of each setting.

mod check;
mod effective;
mod error;
mod secret;
mod units;

use std::path::PathBuf;

use config::{File, FileFormat, Map, Source, Value, ValueKind};
use serde::de::DeserializeOwned;

pub use error::{ConfigError, Fault, Origin};
pub use secret::{REDACTED, Secret, redact};
pub use units::{byte_size, duration};

/// The defaults of the settings that every service has: `data_dir`, `[auth]`, `[server]`, `[telemetry]`.
pub const COMMON_DEFAULTS: &str = include_str!("default.toml");

/// The prefix of variables that set something.
pub const PREFIX: &str = "SOUK_";

/// The name of the variable with the path of the configuration file.
pub const FILE_VARIABLE: &str = "SOUK_CONFIG";

/// Variables with this prefix that are not settings. The command line and the tests use them.
const NOT_SETTINGS: [&str; 3] = [FILE_VARIABLE, "SOUK_TOKEN", "SOUK_ADMIN_PASSWORD"];

/// Collects the sources of the settings. [`Loader::load`] reads them.
#[derive(Debug, Clone)]
pub struct Loader {
    defaults: Vec<(String, String)>,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// Creates a loader that knows the settings of every service.
    pub fn new() -> Self {
        Self { defaults: Vec::new(), file: None, variables: Vec::new() }.defaults("common", COMMON_DEFAULTS)
    }

    /// Adds a text of defaults in TOML. All its settings must be in sections of its own, so that the concatenated texts
    /// are one valid file. `name` is used in errors.
    #[must_use]
    pub fn defaults(mut self, name: &str, toml: &str) -> Self {
        self.defaults.push((name.to_owned(), toml.to_owned()));
        self
    }

    /// Sets the file that is read after the defaults. `None`: the file that `SOUK_CONFIG` names, if the variable is
    /// set.
    #[must_use]
    pub fn file(mut self, path: Option<PathBuf>) -> Self {
        self.file = path;
        self
    }

    /// Reads the `SOUK_*` variables of the process. They override all other sources.
    #[must_use]
    pub fn env(self) -> Self {
        // Invalid Unicode is replaced with replacement characters. The value is then refused as a wrong value.
        let read = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        };
        self.variables(std::env::vars_os().map(read))
    }

    /// Uses these variables instead of those of the process.
    #[must_use]
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)));
        self.variables.sort();
        self
    }

    /// All default texts, concatenated: a complete and commented configuration file.
    pub fn default_text(&self) -> String {
        let texts: Vec<&str> = self.defaults.iter().map(|(_, text)| text.trim_end()).collect();
        texts.join("\n\n") + "\n"
    }

    /// Reads all sources.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML, or if settings are unknown or have the wrong type. The error lists
    /// all such settings, each with its path, its source and what would be right.
    pub fn load(self) -> Result<Settings, ConfigError> {
        let mut builder = config::Config::builder();
        for (name, text) in &self.defaults {
            let source = File::from_str(text, FileFormat::Toml);
            let table = source.collect();
            table.map_err(|source| ConfigError::Defaults { name: name.clone(), source: source.into() })?;
            builder = builder.add_source(source);
        }
        let broken = |source: config::ConfigError| ConfigError::Defaults {
            name: "all services together".into(),
            source: source.into(),
        };
        let known = builder.build_cloned().map_err(broken)?.cache.into_table().map_err(broken)?;
        let mut faults = Vec::new();

        if let Some(path) = self.file_path() {
            let table = read(&path)?;
            let origin = Origin::File(path.display().to_string());
            check::table(&known, &table, "", &origin, &known, &mut faults);
            builder = builder.add_source(Marked(mark(table, &origin)));
        }
        for (name, text) in self.variables.iter().filter(|(name, _)| is_setting(name)) {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            let origin = Origin::Variable(name.clone());
            match check::variable(&known, &key, text, &origin) {
                Ok(kind) => {
                    let value = Value::new(Some(&tag(&origin)), kind);
                    builder = builder.set_override(&key, value).map_err(broken)?;
                }
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            faults.sort_by(|a, b| a.key.cmp(&b.key));
            return Err(ConfigError::Settings(faults));
        }
        let table = builder.build().and_then(|config| config.cache.into_table()).map_err(broken)?;
        Ok(Settings { root: Value::new(None, ValueKind::Table(table)) })
    }

    fn file_path(&self) -> Option<PathBuf> {
        let named = || self.variables.iter().find(|(name, path)| name == FILE_VARIABLE && !path.is_empty());
        self.file.clone().or_else(|| named().map(|(_, path)| path.into()))
    }
}

/// The effective settings.
#[derive(Debug, Clone)]
pub struct Settings {
    root: Value,
}

impl Settings {
    /// Deserializes the settings at a dotted path: a section (`order`, `order.database`) or a single setting
    /// (`data_dir`).
    ///
    /// # Errors
    /// If a value does not fit the type. The error has its path, its source, the value and what would be right.
    pub fn section<T: DeserializeOwned>(&self, path: &str) -> Result<T, ConfigError> {
        let value = self.at(path).map_or(serde_json::Value::Null, json);
        serde_path_to_error::deserialize(value).map_err(|error| {
            let below = error.path().to_string();
            let key = if below == "." { path.to_owned() } else { check::join(path, &below) };
            let found = self.at(&key);
            let what = match found.map(|value| &value.kind) {
                // The inner error is dropped, because it may contain the secret value.
                _ if secret::is_secret(&key) => "not a value that can be used here".to_owned(),
                None => format!("not set: {}", error.inner()),
                Some(ValueKind::Table(_)) => error.inner().to_string(),
                Some(kind) => format!("found {}: {}", check::describe(&key, kind), error.inner()),
            };
            ConfigError::Settings(vec![Fault { origin: found.map_or(Origin::Default, origin), key, what }])
        })
    }

    /// True if a source other than the defaults set the setting at `path`, whatever its value.
    pub fn is_set(&self, path: &str) -> bool {
        self.at(path).is_some_and(|value| !matches!(origin(value), Origin::Default))
    }

    /// All effective settings as TOML. Secrets, and passwords in URLs, are replaced by `***`. A value that is not a
    /// default has its source in a comment beside it.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        if let ValueKind::Table(table) = &self.root.kind {
            effective::print(table, "", &mut out);
        }
        out
    }

    /// Creates a fault of the setting at `path`, for errors that only its service can detect (two settings that
    /// conflict, an address that cannot be parsed). Like the other errors of this module, it names the source of the
    /// setting.
    pub fn fault(&self, path: &str, what: impl Into<String>) -> ConfigError {
        let origin = self.at(path).map_or(Origin::Default, origin);
        ConfigError::Settings(vec![Fault { key: path.to_owned(), origin, what: what.into() }])
    }

    /// Returns checks for the settings of a section (`order`).
    pub fn checks<'a>(&'a self, section: &'a str) -> Checks<'a> {
        Checks { settings: self, section }
    }

    fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.root, |value, name| match &value.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        })
    }
}

/// Checks settings of one section beyond their types. Keys are relative to the section.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    settings: &'a Settings,
    section: &'a str,
}

impl Checks<'_> {
    /// Fails if `holds` is false. `what` says what would be right: "must be from 1s to 1h".
    ///
    /// # Errors
    /// Names the setting, its source, and what would be right.
    pub fn require(&self, holds: bool, key: &str, what: &str) -> Result<(), ConfigError> {
        if holds { Ok(()) } else { Err(self.fault(key, what)) }
    }

    /// Creates a fault of the setting, see [`Settings::fault`].
    pub fn fault(&self, key: &str, what: impl Into<String>) -> ConfigError {
        self.settings.fault(&check::join(self.section, key), what)
    }
}

/// A source that has already been read.
#[derive(Debug, Clone)]
struct Marked(Map<String, Value>);

impl Source for Marked {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn read(path: &PathBuf) -> Result<Map<String, Value>, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
    File::from_str(&text, FileFormat::Toml)
        .collect()
        .map_err(|source| ConfigError::Syntax { path: path.clone(), source: source.into() })
}

/// Marks every value with its origin. [`origin`] returns it after the sources are merged.
fn mark(table: Map<String, Value>, origin: &Origin) -> Map<String, Value> {
    let tag = tag(origin);
    let marked = |value: Value| match value.kind {
        ValueKind::Table(inner) => Value::new(Some(&tag), ValueKind::Table(mark(inner, origin))),
        kind => Value::new(Some(&tag), kind),
    };
    table.into_iter().map(|(name, value)| (name, marked(value))).collect()
}

const VARIABLE_TAG: &str = "variable:";

fn tag(origin: &Origin) -> String {
    match origin {
        Origin::Default => String::new(),
        Origin::File(path) => path.clone(),
        Origin::Variable(name) => format!("{VARIABLE_TAG}{name}"),
    }
}

fn origin(value: &Value) -> Origin {
    match value.origin() {
        None | Some("") => Origin::Default,
        Some(tag) => match tag.strip_prefix(VARIABLE_TAG) {
            Some(name) => Origin::Variable(name.to_owned()),
            None => Origin::File(tag.to_owned()),
        },
    }
}

/// True if a `SOUK_*` variable is a setting. Kubernetes gives each container variables for every service of its
/// namespace, such as `SOUK_ORDER_SERVICE_HOST` and `SOUK_ORDER_PORT_8080_TCP`. Those are not settings.
fn is_setting(name: &str) -> bool {
    let from_kubernetes = !name.contains("__")
        && (["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|part| name.contains(part))
            || name.ends_with("_PORT"));
    !NOT_SETTINGS.contains(&name) && !name.starts_with("SOUK_TEST_") && !from_kubernetes
}

fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        ValueKind::Nil => serde_json::Value::Null,
        ValueKind::Boolean(value) => (*value).into(),
        ValueKind::I64(value) => (*value).into(),
        ValueKind::Float(value) => (*value).into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Array(values) => values.iter().map(json).collect(),
        ValueKind::Table(table) => table.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        // TOML and variables never contain the wider number types.
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
