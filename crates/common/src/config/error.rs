//! Errors of the configuration, with what would be right.

use std::fmt;
use std::path::PathBuf;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A built-in default is not valid: a bug of the program.
    #[error("the built-in defaults of {name} are not valid: {source}")]
    Defaults {
        /// Whose defaults.
        name: String,
        /// What the parser says.
        source: Box<config::ConfigError>,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file named by `--config` or `SOUK_CONFIG`.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {source}", path.display())]
    Syntax {
        /// The file named by `--config` or `SOUK_CONFIG`.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: Box<config::ConfigError>,
    },
    /// Settings that are unknown or hold a wrong value: all of them, not only the first.
    #[error("{}", Faults(.0))]
    Settings(Vec<Fault>),
}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its full path, such as `order.database.url`.
    pub key: String,
    /// Who set it.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub what: String,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The defaults built into the program.
    Default,
    /// The configuration file, by its path.
    File(String),
    /// An environment variable, by its name.
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
