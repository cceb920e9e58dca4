//! Settings of the order service: `[order]`, and the addresses of other services.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use souk_common::{
    client,
    config::{self, Checks, ConfigError, Secret},
    service::Common,
};
use souk_store::{
    db,
    events::{self, nats},
};

/// The commented defaults of `[order]`.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The configuration of the order service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration that all services share.
    pub common: Common,
    /// The NATS server that events are published to.
    pub nats: nats::Settings,
    /// The section `[order]`.
    pub settings: Settings,
}

/// The section `[order]`. Its default text explains each setting.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The database.
    pub database: db::Config,
    /// The addresses of other services.
    pub clients: Clients,
    /// The settings of sagas.
    pub saga: SagaSettings,
    /// Retention of idempotency records that have a response.
    #[serde(with = "config::duration")]
    pub idempotency_retention: Duration,
    /// The payment provider.
    pub payment: PaymentSettings,
    /// The event log.
    pub events: events::Settings,
    /// Merchants' webhooks.
    pub webhooks: crate::webhooks::settings::Settings,
}

/// The section `[order.clients]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// The inventory service.
    pub inventory: client::Config,
    /// The user service, which publishes the keys that verify tokens.
    pub user: client::Config,
}

/// The section `[order.saga]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SagaSettings {
    /// Duration of a lease. If no step is completed in this time, another runner may take over.
    #[serde(with = "config::duration")]
    pub lease: Duration,
    /// How long a runner tries a step before it pauses the saga. Must be shorter than the lease.
    #[serde(with = "config::duration")]
    pub step_timeout: Duration,
    /// The most tries of a step within that time.
    pub tries: u32,
    /// The interval of the search for sagas without a runner.
    #[serde(with = "config::duration")]
    pub interval: Duration,
    /// How many sagas the job runs at a time.
    pub concurrency: usize,
    /// How long stock is reserved.
    #[serde(with = "config::duration")]
    pub reservation_ttl: Duration,
}

/// The section `[order.payment]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentSettings {
    /// The payment provider to use.
    pub provider: ProviderKind,
    /// The delay of `tok_slow`.
    #[serde(with = "config::duration")]
    pub slow_delay: Duration,
    /// The time in which the simulated provider lets an authorisation be captured.
    #[serde(with = "config::duration")]
    pub authorization_lifetime: Duration,
    /// The settings of Stripe.
    pub stripe: StripeSettings,
}

/// The payment providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// No provider was chosen. This means [`ProviderKind::Simulated`], and is allowed only if the service listens on
    /// this machine alone.
    #[serde(rename = "")]
    Unchosen,
    /// Takes no money: the payment's token determines the result.
    Simulated,
    /// Stripe.
    Stripe,
}

/// The section `[order.payment.stripe]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeSettings {
    /// The secret key, or a restricted key.
    pub api_key: Secret,
    /// The signing secret of the webhook endpoint. If it is empty, webhooks are rejected.
    pub webhook_secret: Secret,
    /// The base URL of Stripe's API.
    pub api_base: String,
    /// The timeout of a request.
    #[serde(with = "config::duration")]
    pub timeout: Duration,
    /// The maximum age of a webhook, by its signed time.
    #[serde(with = "config::duration")]
    pub webhook_tolerance: Duration,
    /// Identifies this installation's payments among others on the same account.
    pub installation: String,
    /// The interval of the search for authorisations without an order.
    #[serde(with = "config::duration")]
    pub reconcile_interval: Duration,
    /// The minimum age of an authorisation in this search.
    #[serde(with = "config::duration")]
    pub reconcile_after: Duration,
}

impl StripeSettings {
    fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        let require = |holds, key: &str, what| checks.require(holds, &format!("payment.stripe.{key}"), what);
        let what = "must be set: the secret key (sk_…) or a restricted one (rk_…) of the account";
        require(!self.api_key.is_empty(), "api_key", what)?;
        let is_url = reqwest::Url::parse(&self.api_base).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        let what = "must be a URL that begins with https:// (or http://, of a stand-in for tests)";
        require(is_url, "api_base", what)?;
        require(!self.timeout.is_zero(), "timeout", "must be above zero")?;
        require(self.webhook_tolerance >= SECOND, "webhook_tolerance", "must be 1s or more")?;
        require((1..=100).contains(&self.installation.len()), "installation", "must have from 1 to 100 characters")?;
        require(self.reconcile_interval >= SECOND, "reconcile_interval", "must be 1s or more")?;
        require(self.reconcile_after >= SECOND, "reconcile_after", "must be 1s or more")
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// Fails if the service would serve other machines at `listen` (the setting `key`) and no payment provider was
    /// chosen. Otherwise a shop could open by oversight with the provider that takes no money.
    ///
    /// # Errors
    /// Names the setting that must be set.
    pub fn check_provider(&self, all: &config::Settings, key: &str, listen: SocketAddr) -> Result<(), ConfigError> {
        if self.settings.payment.provider != ProviderKind::Unchosen || listen.ip().is_loopback() {
            return Ok(());
        }
        let what = format!(
            "must be chosen, as {key} is {listen}, where other machines can order: \"stripe\", or \"simulated\", which takes \
             no money and confirms orders all the same. Set SOUK_ORDER__PAYMENT__PROVIDER, or `provider` in [order.payment]"
        );
        Err(all.fault("order.payment.provider", what))
    }

    /// Reads the service's settings.
    ///
    /// # Errors
    /// Names the invalid setting, its source, and a valid value.
    pub fn from_settings(all: &config::Settings) -> Result<Self, ConfigError> {
        let (common, nats) = (Common::from_settings(all)?, nats::Settings::from_settings(all)?);
        let config = Self { common, nats, settings: all.section("order")? };
        config.check_provider(all, "order.listen", config.settings.listen)?;
        config.settings.check(all.checks("order"))?;
        Ok(config)
    }
}

impl Settings {
    fn check(&self, checks: Checks<'_>) -> Result<(), ConfigError> {
        let saga = &self.saga;
        checks.require((SECOND..=HOUR).contains(&saga.lease), "saga.lease", "must be from 1s to 1h")?;
        let what = "must be above zero and below order.saga.lease, or two would run one order";
        checks.require(!saga.step_timeout.is_zero() && saga.step_timeout < saga.lease, "saga.step_timeout", what)?;
        checks.require(saga.tries > 0, "saga.tries", "must be 1 or more")?;
        checks.require(!saga.interval.is_zero(), "saga.interval", "must be above zero")?;
        checks.require((1..=10_000).contains(&saga.concurrency), "saga.concurrency", "must be from 1 to 10000")?;
        let hold = (SECOND..=7 * DAY).contains(&saga.reservation_ttl);
        checks.require(hold, "saga.reservation_ttl", "must be from 1s to 7days")?;
        checks.require(self.idempotency_retention >= DAY, "idempotency_retention", "must be 24h or more")?;
        if self.payment.provider == ProviderKind::Stripe {
            self.payment.stripe.check(checks)?;
        }
        self.database.check(checks)?;
        self.events.check(checks)?;
        match self.webhooks.fault() {
            Some((setting, what)) => Err(checks.fault(&format!("webhooks.{setting}"), what)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use souk_common::config::Loader;

    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loader = Loader::new().defaults("order", DEFAULTS).variables(variables);
        Config::from_settings(&loader.load()?)
    }

    #[test]
    fn the_defaults_are_valid_and_equal_those_of_the_database() {
        let config = load(&[]).unwrap();
        let built_in = db::Config::default();
        assert_eq!(format!("{:?}", config.settings.database), format!("{built_in:?}"));
    }

    #[test]
    fn a_service_for_other_machines_needs_a_payment_provider() {
        let everywhere = ("SOUK_ORDER__LISTEN", "0.0.0.0:9000");
        for listen in ["0.0.0.0:9000", "[::]:9000", "192.0.2.7:9000"] {
            let error = load(&[("SOUK_ORDER__LISTEN", listen)]).unwrap_err().to_string();
            let says =
                ["order.payment.provider", "order.listen", listen, "\"simulated\"", "SOUK_ORDER__PAYMENT__PROVIDER"];
            assert!(says.iter().all(|part| error.contains(part)), "{error}");
        }
        for listen in ["127.0.0.1:9000", "[::1]:9000"] {
            load(&[("SOUK_ORDER__LISTEN", listen)]).unwrap();
        }
        load(&[everywhere, ("SOUK_ORDER__PAYMENT__PROVIDER", "simulated")]).unwrap();
        let api_key = ("SOUK_ORDER__PAYMENT__STRIPE__API_KEY", "sk_test_1");
        load(&[everywhere, ("SOUK_ORDER__PAYMENT__PROVIDER", "stripe"), api_key]).unwrap();
    }

    #[test]
    fn the_settings_of_stripe_are_checked_if_it_is_used_and_its_secrets_are_hidden() {
        let stripe = ("SOUK_ORDER__PAYMENT__PROVIDER", "stripe");
        let api_key = ("SOUK_ORDER__PAYMENT__STRIPE__API_KEY", "sk_test_hunter2");
        let webhooks = ("SOUK_ORDER__PAYMENT__STRIPE__WEBHOOK_SECRET", "whsec_hunter2");
        assert!(load(&[stripe]).unwrap_err().to_string().contains("order.payment.stripe.api_key"));
        let config = load(&[stripe, api_key, webhooks]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for (name, value) in [
            ("API_BASE", "api.stripe.com"),
            ("TIMEOUT", "0s"),
            ("WEBHOOK_TOLERANCE", "10ms"),
            ("INSTALLATION", ""),
            ("RECONCILE_INTERVAL", "10ms"),
            ("RECONCILE_AFTER", "0s"),
        ] {
            let variable = format!("SOUK_ORDER__PAYMENT__STRIPE__{name}");
            load(&[(&variable, value)]).unwrap();
            let error = load(&[stripe, api_key, (&variable, value)]).unwrap_err().to_string();
            let key = format!("order.payment.stripe.{}", name.to_lowercase());
            assert!(error.contains(&key) && error.contains(&variable), "{error}");
        }
    }

    #[test]
    fn the_error_of_a_wrong_setting_names_it_and_its_source() {
        for (variable, value, key) in [
            ("SOUK_ORDER__LISTEN", "here", "order.listen"),
            ("SOUK_ORDER__IDEMPOTENCY_RETENTION", "23h", "order.idempotency_retention"),
            ("SOUK_ORDER__SAGA__LEASE", "10ms", "order.saga.lease"),
            ("SOUK_ORDER__SAGA__STEP_TIMEOUT", "10s", "order.saga.step_timeout"),
            ("SOUK_ORDER__SAGA__TRIES", "0", "order.saga.tries"),
            ("SOUK_ORDER__SAGA__INTERVAL", "0s", "order.saga.interval"),
            ("SOUK_ORDER__SAGA__CONCURRENCY", "0", "order.saga.concurrency"),
            ("SOUK_ORDER__SAGA__RESERVATION_TTL", "8days", "order.saga.reservation_ttl"),
            ("SOUK_ORDER__PAYMENT__PROVIDER", "gold", "order.payment.provider"),
            ("SOUK_ORDER__EVENTS__RETENTION", "1m", "order.events.retention"),
            ("SOUK_ORDER__WEBHOOKS__INTERVAL", "1ms", "order.webhooks.interval"),
            ("SOUK_ORDER__WEBHOOKS__SET_ASIDE_AFTER", "2days", "order.webhooks.set_aside_after"),
            ("SOUK_ORDER__WEBHOOKS__CONCURRENCY", "0", "order.webhooks.concurrency"),
            ("SOUK_ORDER__WEBHOOKS__CONCURRENCY_PER_ENDPOINT", "33", "order.webhooks.concurrency_per_endpoint"),
            ("SOUK_ORDER__WEBHOOKS__TIMEOUT", "2m", "order.webhooks.timeout"),
            ("SOUK_ORDER__WEBHOOKS__RETRIES", "", "order.webhooks.retries"),
            ("SOUK_ORDER__WEBHOOKS__RETRIES", "5s,soon", "order.webhooks.retries"),
            ("SOUK_ORDER__WEBHOOKS__RETENTION", "2days", "order.webhooks.retention"),
            ("SOUK_ORDER__WEBHOOKS__ALLOW_NETWORKS", "10.0.0.0/8,here", "order.webhooks.allow_networks"),
            ("SOUK_ORDER__WEBHOOKS__CA_FILE", "/no/such/file", "order.webhooks.ca_file"),
            ("SOUK_ORDER__DATABASE__URL", "mysql://x", "order.database.url"),
            ("SOUK_ORDER__NO_SUCH", "1", "order.no_such"),
        ] {
            let error = load(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(key), "{variable}={value}: {error}");
            assert!(error.contains(variable), "{variable}={value}: {error}");
        }
    }
}
