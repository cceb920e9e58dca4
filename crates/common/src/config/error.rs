//! Errors of the configuration. They say what would be right.

use std::fmt;
use std::path::PathBuf;

/// The reason why the configuration is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A built-in default is invalid: a bug of the program.
    #[error("the built-in defaults of {name} are not valid: {source}")]
    Defaults {
        /// The name of the default text.
        name: String,
        /// The error of the parser.
        source: Box<config::ConfigError>,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file that `--config` or `SOUK_CONFIG` names.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("the configuration file {} is not valid TOML: {source}", path.display())]
    Syntax {
        /// The file that `--config` or `SOUK_CONFIG` names.
        path: PathBuf,
        /// The error of the parser, with line and column.
        source: Box<config::ConfigError>,
    },
    /// Settings that are unknown or have a wrong value. The list has all of them, not only the first.
    #[error("{}", Faults(.0))]
    Settings(Vec<Fault>),
}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The full path of the setting, such as `order.database.url`.
    pub key: String,
    /// The source that set it.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub what: String,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in defaults.
    Default,
    /// The configuration file with this path.
    File(String),
    /// The environment variable with this name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Variable(name) => write!(f, "variable {name}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}): {}", self.key, self.origin, self.what)
    }
}

struct Faults<'a>(&'a [Fault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "wrong setting {one}"),
            many => {
                write!(f, "{} wrong settings:", many.len())?;
                many.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}
