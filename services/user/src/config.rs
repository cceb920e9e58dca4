//! The settings of `[user]`, checked before anything binds.

use std::{net::SocketAddr, time::Duration};

use chrono::TimeDelta;
use serde::Deserialize;
use souk_common::{
    config::{self, Checks, ConfigError},
    service::Common,
};
use souk_store::db;

use crate::domain::password::{Cost, HashError};

/// The commented defaults of `[user]`.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The configuration of the user service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration that all services share.
    pub common: Common,
    /// The section `[user]`.
    pub settings: Settings,
}

/// The section `[user]`. Its default text explains each setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in default.toml, once")]
pub struct Settings {
    pub listen: SocketAddr,
    #[serde(with = "config::duration")]
    pub access_token_ttl: Duration,
    #[serde(with = "config::duration")]
    pub session_ttl: Duration,
    #[serde(with = "config::duration")]
    pub session_max_age: Duration,
    #[serde(with = "config::duration")]
    pub refresh_grace: Duration,
    #[serde(with = "config::duration")]
    pub signing_key_max_age: Duration,
    #[serde(with = "config::duration")]
    pub cleanup_interval: Duration,
    pub hashing: Hashing,
    pub database: db::Config,
}

/// The section `[user.hashing]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in default.toml, once")]
pub struct Hashing {
    #[serde(with = "config::byte_size")]
    pub memory: usize,
    pub iterations: u32,
    pub parallelism: u32,
}

impl Hashing {
    /// The cost of a hash.
    ///
    /// # Errors
    /// If argon2 does not allow it.
    pub fn cost(&self) -> Result<Cost, HashError> {
        let kib = u32::try_from(self.memory / 1024).unwrap_or(u32::MAX);
        Cost::new(kib, self.iterations, self.parallelism)
    }
}

/// The most memory for one hash, in bytes. A larger setting is a mistake.
const MOST_MEMORY: usize = 4 << 30;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TEN_YEARS: Duration = Duration::from_secs(3660 * 24 * 3600);

impl Config {
    /// Reads the service's settings.
    ///
    /// # Errors
    /// Names the invalid setting, its source, and a valid value.
    pub fn from_settings(all: &config::Settings) -> Result<Self, ConfigError> {
        let config = Self { common: Common::from_settings(all)?, settings: all.section("user")? };
        config.settings.check(all.checks("user"))?;
        Ok(config)
    }
}

impl Settings {
    fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        checks.require(
            (SECOND..=DAY).contains(&self.access_token_ttl),
            "access_token_ttl",
            "must be from 1s to 1day: ended sessions are listed for as long",
        )?;
        checks.require(
            (self.access_token_ttl..=TEN_YEARS).contains(&self.session_ttl),
            "session_ttl",
            "must be at least access_token_ttl, and at most ten years",
        )?;
        checks.require(
            (self.access_token_ttl..=TEN_YEARS).contains(&self.session_max_age),
            "session_max_age",
            "must be at least access_token_ttl, and at most ten years",
        )?;
        checks.require(
            self.refresh_grace <= MINUTE,
            "refresh_grace",
            "must be at most 1m: a stolen token goes unnoticed for this long",
        )?;
        checks.require(
            (MINUTE..=TEN_YEARS).contains(&self.signing_key_max_age),
            "signing_key_max_age",
            "must be from 1m to ten years",
        )?;
        let cleanup = (SECOND..=DAY).contains(&self.cleanup_interval);
        checks.require(cleanup, "cleanup_interval", "must be from 1s to 1day")?;
        checks.require(self.hashing.memory <= MOST_MEMORY, "hashing.memory", "must be at most 4GiB")?;
        self.hashing.cost().map_err(|error| {
            let right = "use at least 8KiB of memory a lane, 1 iteration and 1 lane";
            checks.fault("hashing", format!("{error}: {right}"))
        })?;
        self.database.check(checks)
    }
}

/// Converts a duration for arithmetic on times. Every duration that [`Config::from_settings`] accepts fits.
pub(crate) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use souk_common::config::Loader;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_settings(&Loader::new().defaults("user", DEFAULTS).variables(variables).load()?)
    }

    #[test]
    fn the_defaults_are_valid_and_follow_owasp() {
        let config = load(&[]).unwrap();
        let hashing = &config.settings.hashing;
        assert_eq!((hashing.memory, hashing.iterations, hashing.parallelism), (19_456 * 1024, 2, 1));
        assert_eq!(config.settings.access_token_ttl, 15 * MINUTE);
        let built_in = db::Config::default();
        assert_eq!(format!("{:?}", config.settings.database), format!("{built_in:?}"));
    }

    #[test]
    fn the_error_of_a_wrong_setting_names_it_and_its_source() {
        for (variable, value, key) in [
            ("SOUK_USER__LISTEN", "here", "user.listen"),
            ("SOUK_USER__ACCESS_TOKEN_TTL", "0s", "user.access_token_ttl"),
            ("SOUK_USER__SESSION_TTL", "1s", "user.session_ttl"),
            ("SOUK_USER__SESSION_MAX_AGE", "1s", "user.session_max_age"),
            ("SOUK_USER__REFRESH_GRACE", "1h", "user.refresh_grace"),
            ("SOUK_USER__SIGNING_KEY_MAX_AGE", "1s", "user.signing_key_max_age"),
            ("SOUK_USER__CLEANUP_INTERVAL", "0s", "user.cleanup_interval"),
            ("SOUK_USER__HASHING__MEMORY", "1KiB", "user.hashing"),
            ("SOUK_USER__HASHING__MEMORY", "9GiB", "user.hashing.memory"),
            ("SOUK_USER__HASHING__ITERATIONS", "0", "user.hashing"),
            ("SOUK_USER__DATABASE__URL", "mysql://x", "user.database.url"),
            ("SOUK_USER__NO_SUCH", "1", "user.no_such"),
        ] {
            let error = load(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{variable}={value}: {error}");
        }
    }
}
