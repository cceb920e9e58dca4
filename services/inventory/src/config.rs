//! The settings of `[inventory]`, checked before anything binds.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use souk_common::{
    client,
    config::{self, Checks, ConfigError},
    service::Common,
};
use souk_store::{
    db,
    events::{self, nats},
};

/// The commented defaults of `[inventory]`.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The configuration of the inventory service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration that all services share.
    pub common: Common,
    /// The NATS server that events are published to.
    pub nats: nats::Settings,
    /// The section `[inventory]`.
    pub settings: Settings,
}

/// The section `[inventory]`. Its default text explains each setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in default.toml, once")]
pub struct Settings {
    pub listen: SocketAddr,
    pub batch_size: usize,
    pub queue_size: usize,
    #[serde(with = "config::duration")]
    pub expiry_interval: Duration,
    #[serde(with = "config::duration")]
    pub idempotency_retention: Duration,
    #[serde(with = "config::duration")]
    pub cleanup_interval: Duration,
    pub clients: Clients,
    pub database: db::Config,
    pub events: events::Settings,
}

/// The section `[inventory.clients]`: the addresses of other services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in default.toml, once")]
pub struct Clients {
    pub user: client::Config,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// Reads the service's settings.
    ///
    /// # Errors
    /// Names the invalid setting, its source, and a valid value.
    pub fn from_settings(all: &config::Settings) -> Result<Self, ConfigError> {
        let (common, nats) = (Common::from_settings(all)?, nats::Settings::from_settings(all)?);
        let config = Self { common, nats, settings: all.section("inventory")? };
        config.settings.check(all.checks("inventory"))?;
        Ok(config)
    }
}

impl Settings {
    fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        checks.require((1..=10_000).contains(&self.batch_size), "batch_size", "must be from 1 to 10000")?;
        checks.require((1..=1_000_000).contains(&self.queue_size), "queue_size", "must be from 1 to 1000000")?;
        let expiry = (SECOND..=DAY).contains(&self.expiry_interval);
        checks.require(expiry, "expiry_interval", "must be from 1s to 1day")?;
        let retention = (DAY..=3660 * DAY).contains(&self.idempotency_retention);
        checks.require(retention, "idempotency_retention", "must be from 1day to ten years")?;
        let cleanup = (SECOND..=DAY).contains(&self.cleanup_interval);
        checks.require(cleanup, "cleanup_interval", "must be from 1s to 1day")?;
        self.database.check(checks)?;
        self.events.check(checks)
    }
}

#[cfg(test)]
mod tests {
    use souk_common::config::Loader;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loader = Loader::new().defaults("inventory", DEFAULTS).variables(variables);
        Config::from_settings(&loader.load()?)
    }

    #[test]
    fn the_defaults_are_valid_and_equal_those_of_the_database() {
        let config = load(&[]).unwrap();
        let built_in = db::Config::default();
        assert_eq!(format!("{:?}", config.settings.database), format!("{built_in:?}"));
    }

    #[test]
    fn the_error_of_a_wrong_setting_names_it_and_its_source() {
        for (variable, value, key) in [
            ("SOUK_INVENTORY__LISTEN", "here", "inventory.listen"),
            ("SOUK_INVENTORY__BATCH_SIZE", "0", "inventory.batch_size"),
            ("SOUK_INVENTORY__QUEUE_SIZE", "0", "inventory.queue_size"),
            ("SOUK_INVENTORY__EXPIRY_INTERVAL", "0s", "inventory.expiry_interval"),
            ("SOUK_INVENTORY__IDEMPOTENCY_RETENTION", "23h", "inventory.idempotency_retention"),
            ("SOUK_INVENTORY__CLEANUP_INTERVAL", "2days", "inventory.cleanup_interval"),
            ("SOUK_INVENTORY__DATABASE__URL", "mysql://x", "inventory.database.url"),
            ("SOUK_INVENTORY__NO_SUCH", "1", "inventory.no_such"),
        ] {
            let error = load(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{variable}={value}: {error}");
            assert!(error.contains(variable), "{variable}={value}: {error}");
        }
    }
}
