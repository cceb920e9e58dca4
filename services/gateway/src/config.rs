//! The settings of `[gateway]`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use souk_common::{
    client,
    config::{ConfigError, Secret, Settings as AllSettings},
    error::chain,
    service::Common,
    tls::{ClientSettings, HTTP, ServerSettings},
};

use crate::{
    address::{self, ForwardedBy, Network},
    body, cache, cors, foreign, limits,
    shared::Shared,
    streams,
};

/// The default settings of `[gateway]`, with comments.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The configuration of the gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration that the gateway and the services have in common: tokens, deadline, limits, drain.
    pub common: Common,
    /// The section `[gateway]`.
    pub settings: Settings,
}

/// The settings of `[gateway]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address on which the gateway listens.
    pub listen: SocketAddr,
    /// Timeout for connecting to a service.
    #[serde(with = "souk_common::config::duration")]
    pub connect_timeout: Duration,
    /// Longest time that a client may take to send the headers of a request.
    #[serde(with = "souk_common::config::duration")]
    pub header_timeout: Duration,
    /// Longest time that a client may take to send the body of a request.
    #[serde(with = "souk_common::config::duration")]
    pub body_timeout: Duration,
    /// How long the gateway still reads the body of a request after it responded early.
    #[serde(with = "souk_common::config::duration")]
    pub unread_timeout: Duration,
    /// Maximum size of a request's headers, in bytes. At least 8 KiB.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_header_bytes: usize,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// Maximum number of open connections of one address.
    pub max_connections_per_address: usize,
    /// How long a connection may be idle.
    #[serde(with = "souk_common::config::duration")]
    pub idle_timeout: Duration,
    /// How long a client may stop reading a response before it is dropped.
    #[serde(with = "souk_common::config::duration")]
    pub write_timeout: Duration,
    /// Limits on responses that clients have not read yet.
    pub unsent: Unsent,
    /// Timeout of a readiness check of a service.
    #[serde(with = "souk_common::config::duration")]
    pub ready_timeout: Duration,
    /// How long a stopping gateway reports that it is not ready but still accepts requests. The process that stops it
    /// waits for this long; see [`souk_common::server::Stop`].
    #[serde(with = "souk_common::config::duration")]
    pub shutdown_delay: Duration,
    /// Maximum number of concurrent requests of one caller. 0: half of the total limit.
    pub max_concurrent_per_caller: usize,
    /// How long a request waits for a place if too many requests are running.
    #[serde(with = "souk_common::config::duration")]
    pub queue_timeout: Duration,
    /// Name of the service that publishes the keys for checking tokens.
    pub keys_from: String,
    /// Web pages of other origins that may call the gateway.
    pub cors: cors::Settings,
    /// TLS certificate for clients.
    pub tls: ServerSettings,
    /// True if responses are compressed for clients that accept it.
    pub compression: bool,
    /// True if each request is logged, at level info.
    pub access_log: bool,
    /// Networks of the proxies that are trusted to report client addresses.
    #[serde(deserialize_with = "address::networks")]
    pub trusted_proxies: Vec<Network>,
    /// The header in which trusted proxies report the client address.
    pub forwarded_by: ForwardedBy,
    /// URL of the Redis that shares rate limits and cached responses with other gateways. Empty: none. May contain a
    /// password.
    pub redis_url: Secret,
    /// Timeout of a call to Redis.
    #[serde(with = "souk_common::config::duration")]
    pub redis_timeout: Duration,
    /// TLS settings for `rediss://`.
    pub redis_tls: ClientSettings,
    /// Limits of request bodies.
    pub body: body::Settings,
    /// The response cache.
    pub cache: cache::Settings,
    /// Rate limits.
    pub rate_limits: limits::Settings,
    /// Limits of server streams.
    pub stream: streams::Settings,
    /// The contract to serve.
    pub contract: foreign::Settings,
    /// Addresses of the services.
    pub backends: Backends,
}

/// The settings of `[gateway.unsent]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsent {
    /// Maximum size of all unread responses, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes: usize,
    /// Maximum size of the unread responses of one address, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes_per_address: usize,
    /// Maximum size of the unread responses on one connection, in bytes.
    #[serde(with = "souk_common::config::byte_size")]
    pub max_bytes_per_connection: usize,
}

impl Settings {
    /// Returns the name of an invalid connection setting and its valid values.
    fn fault_of_connections(&self) -> Option<(&'static str, &'static str)> {
        let Unsent { max_bytes, max_bytes_per_address, max_bytes_per_connection } = self.unsent;
        let at_least = |size: usize| size >= 64 * 1024;
        [
            (self.max_connections > 0, "max_connections", "must be 1 or more"),
            (self.max_connections_per_address > 0, "max_connections_per_address", "must be 1 or more"),
            (!self.idle_timeout.is_zero(), "idle_timeout", "must be longer than 0s"),
            (!self.write_timeout.is_zero(), "write_timeout", "must be longer than 0s"),
            (at_least(max_bytes_per_connection), "unsent.max_bytes_per_connection", "must be 64KiB or more"),
            (at_least(max_bytes_per_address), "unsent.max_bytes_per_address", "must be 64KiB or more"),
            (at_least(max_bytes), "unsent.max_bytes", "must be 64KiB or more"),
        ]
        .into_iter()
        .find_map(|(is_right, setting, right)| (!is_right).then_some((setting, right)))
    }

    /// The connection to the shared Redis, if one is configured.
    pub(crate) fn shared(&self) -> redis::RedisResult<Option<Arc<Shared>>> {
        let url = self.redis_url.expose();
        if url.is_empty() {
            Ok(None)
        } else {
            Shared::new(url, &self.redis_tls, self.redis_timeout).map(Arc::new).map(Some)
        }
    }
}

/// Addresses of services, by the name of a package or a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends(BTreeMap<String, String>);

impl Backends {
    /// Sets the address of a name, or several addresses separated by commas.
    pub fn set(&mut self, name: impl Into<String>, address: impl Into<String>) {
        self.0.insert(name.into(), address.into());
    }

    /// Adds the backends of a command line. They replace earlier addresses of the same name. A name that is given twice
    /// has two addresses.
    pub fn add(&mut self, backends: &[(String, String)]) {
        let mut given = BTreeMap::<&str, Vec<&str>>::new();
        for (name, address) in backends {
            given.entry(name).or_default().push(address);
        }
        for (name, addresses) in given {
            self.set(name, addresses.join(","));
        }
    }

    /// The configured name and address for a service. The name is the longest one that is the service itself or an
    /// enclosing package. Case is ignored, because environment variables are in capitals.
    pub fn of(&self, service: &str) -> Option<(&str, &str)> {
        let fitting = self.0.iter().filter(|(name, _)| foreign::fits(name, service));
        fitting.max_by_key(|(name, _)| name.len()).map(|(name, address)| (name.as_str(), address.as_str()))
    }

    /// All names and their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, address)| (name.as_str(), address.as_str()))
    }
}

/// TOML and environment variables present `souk.user = "…"` as nested tables.
impl<'de> Deserialize<'de> for Backends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = BTreeMap::new();
        let table = serde_json::Map::deserialize(deserializer)?;
        flatten("", table, &mut flat).map_err(D::Error::custom)?;
        Ok(Self(flat))
    }
}

fn flatten(
    path: &str,
    table: serde_json::Map<String, serde_json::Value>,
    into: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in table {
        let name = if path.is_empty() { name } else { format!("{path}.{name}") };
        match value {
            serde_json::Value::Object(inner) => flatten(&name, inner, into)?,
            other => {
                let addresses = client::one_or_several(other).map_err(|error| format!("{name}: {error}"))?;
                drop(into.insert(name, addresses));
            }
        }
    }
    Ok(())
}

impl Config {
    /// Builds the configuration from all settings.
    ///
    /// # Errors
    /// An invalid setting, with its valid values.
    pub fn from_settings(settings: &AllSettings) -> Result<Self, ConfigError> {
        let own: Settings = settings.section("gateway")?;
        // hyper needs at least this much to read a request.
        if own.max_header_bytes < 8 * 1024 {
            return Err(settings.fault("gateway.max_header_bytes", "must be 8KiB or more"));
        }
        if let Some((setting, right)) = own.fault_of_connections() {
            return Err(settings.fault(&format!("gateway.{setting}"), right));
        }
        own.tls
            .load(HTTP)
            .map_err(|error| settings.fault(&format!("gateway.tls.{}", error.setting()), chain(&error)))?;
        own.cors.check().map_err(|(name, fault)| settings.fault(&format!("gateway.cors.{name}"), fault))?;
        own.redis_tls
            .pem()
            .map_err(|error| settings.fault(&format!("gateway.redis_tls.{}", error.setting()), chain(&error)))?;
        own.shared().map_err(|error| {
            settings.fault("gateway.redis_url", format!("must be such as redis://:password@host:6379/0 ({error})"))
        })?;
        if let Some((setting, fault)) = own.stream.fault() {
            return Err(settings.fault(setting, fault));
        }
        if let Some((name, fault)) = own.contract.fault() {
            return Err(settings.fault(&format!("gateway.contract.{name}"), fault));
        }
        let common = Common::from_settings(settings)?;
        if let Some((setting, right)) = own.body.fault(common.server.max_request_bytes) {
            return Err(settings.fault(&format!("gateway.{setting}"), right));
        }
        Ok(Self { common, settings: own })
    }

    /// The client configuration for a service at this address.
    pub(crate) fn client(&self, address: &str) -> client::Config {
        client::Config {
            address: address.to_owned(),
            timeout: self.common.server.deadline,
            connect_timeout: self.settings.connect_timeout,
            tls: self.common.client_tls.clone(),
            local: self.common.server.local.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use souk_common::config::Loader;

    use super::*;

    #[test]
    fn the_defaults_load_and_backends_come_from_variables() {
        let variables = [
            ("SOUK_GATEWAY__BACKENDS__SOUK__USER", "http://user:9000"),
            ("SOUK_GATEWAY__BACKENDS__SOUK__ORDER__V1", "http://order:9000"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Loader::new().defaults("gateway", DEFAULTS).variables(variables).load().unwrap();
        let config = Config::from_settings(&settings).unwrap();
        let backends = &config.settings.backends;
        assert_eq!(backends.of("souk.user.v1.UserService"), Some(("souk.user", "http://user:9000")));
        assert_eq!(backends.of("souk.order.v1.OrderService"), Some(("souk.order.v1", "http://order:9000")));
        assert_eq!(backends.of("souk.order.v2.OrderService"), None);
        assert_eq!(backends.of("souk.userland.v1.X"), None);
    }

    #[test]
    fn a_backend_has_one_address_or_several() {
        let read = |json| serde_json::from_value::<Backends>(json);
        let backends = read(serde_json::json!({"souk": {"user": ["http://a:1", "http://b:1"], "order": "http://c:1"}}));
        let backends = backends.unwrap();
        assert_eq!(backends.of("souk.user.v1.X"), Some(("souk.user", "http://a:1,http://b:1")));
        assert_eq!(backends.of("souk.order.v1.X"), Some(("souk.order", "http://c:1")));
        let error = read(serde_json::json!({"souk": {"user": 7}})).unwrap_err().to_string();
        assert!(error.contains("souk.user") && error.contains("or a list of such"), "{error}");
    }

    #[test]
    fn wrong_limits_are_named() {
        let table = [
            (
                "GATEWAY__RATE_LIMITS__READ__PER_CALLER__RATE",
                "50",
                "gateway.rate_limits.read.per_caller.rate",
                "\"50/s\"",
            ),
            (
                "GATEWAY__RATE_LIMITS__AUTH__PER_ADDRESS__BURST",
                "0",
                "gateway.rate_limits.auth.per_address.burst",
                "nonzero",
            ),
            ("GATEWAY__TRUSTED_PROXIES", "10.0.0.0/8,proxy", "gateway.trusted_proxies", "`proxy` is not a network"),
            ("GATEWAY__FORWARDED_BY", "x-real-ip", "gateway.forwarded_by", "x-forwarded-for"),
            ("GATEWAY__REDIS_URL", "redis.example.com", "gateway.redis_url", "redis://:password@host"),
            ("GATEWAY__REDIS_URL", "unix:///run/redis", "gateway.redis_url", "redis://:password@host"),
            (
                "GATEWAY__REDIS_URL",
                "rediss://h/#insecure",
                "gateway.redis_url",
                "TLS without a check of the certificate",
            ),
            ("GATEWAY__REDIS_TLS__CA", "/no/such.pem", "gateway.redis_tls.ca", "cannot be read"),
            ("GATEWAY__MAX_CONNECTIONS", "0", "gateway.max_connections", "1 or more"),
            ("GATEWAY__MAX_CONNECTIONS_PER_ADDRESS", "0", "gateway.max_connections_per_address", "1 or more"),
            ("GATEWAY__IDLE_TIMEOUT", "0s", "gateway.idle_timeout", "longer than 0s"),
            ("GATEWAY__WRITE_TIMEOUT", "0s", "gateway.write_timeout", "longer than 0s"),
            ("GATEWAY__BODY__MAX_BYTES_PER_ADDRESS", "1MiB", "gateway.body.max_bytes_per_address", "4194309B or more"),
            ("GATEWAY__UNSENT__MAX_BYTES", "1KiB", "gateway.unsent.max_bytes", "64KiB or more"),
            ("GATEWAY__CACHE__MAX_BYTES", "64", "gateway.cache.max_bytes", "64KiB"),
        ];
        for (name, value, setting, right) in table {
            let variables = [(format!("SOUK_{name}"), value.to_owned())];
            let settings = Loader::new().defaults("gateway", DEFAULTS).variables(variables).load().unwrap();
            let error = Config::from_settings(&settings).unwrap_err().to_string();
            assert!(error.contains(setting) && error.contains(right) && error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn a_certificate_without_a_key_is_refused() {
        let table = [
            ("KEY", "gateway.tls.certificate", "must be set where `key` is"),
            ("CERTIFICATE", "gateway.tls.key", "must be set where `certificate` is"),
            ("CLIENT_CA", "gateway.tls.certificate", "must be set where `client_ca` is"),
        ];
        for (name, setting, right) in table {
            let variables = [(format!("SOUK_GATEWAY__TLS__{name}"), "some.pem".to_owned())];
            let settings = Loader::new().defaults("gateway", DEFAULTS).variables(variables).load().unwrap();
            let error = Config::from_settings(&settings).unwrap_err().to_string();
            assert!(error.contains(setting) && error.contains(right), "{name}: {error}");
        }
    }

    #[test]
    fn the_password_of_redis_is_not_shown() {
        let variables = [("SOUK_GATEWAY__REDIS_URL".to_owned(), "redis://:hunter2@redis:6379/0".to_owned())];
        let settings = Loader::new().defaults("gateway", DEFAULTS).variables(variables).load().unwrap();
        let config = Config::from_settings(&settings).unwrap();
        assert!(!format!("{config:?} {}", settings.effective()).contains("hunter2"));
        assert!(config.settings.shared().unwrap().is_some());
    }

    #[test]
    fn the_longest_name_wins() {
        let mut backends = Backends::default();
        backends.set("souk", "http://all");
        backends.set("souk.user.v1.SessionService", "http://sessions");
        assert_eq!(backends.of("souk.user.v1.SessionService").unwrap().1, "http://sessions");
        assert_eq!(backends.of("souk.user.v1.UserService").unwrap().1, "http://all");
    }
}
