//! The section `[order.webhooks]`.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use reqwest::Certificate;
use serde::{Deserialize, Deserializer, de::Error};
use souk_common::config::duration;

/// The settings of webhooks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The interval of the search for due deliveries.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How many deliveries each replica of the service sends at a time.
    pub concurrency: usize,
    /// How many of them may go to one endpoint. An endpoint that fails gets one at a time.
    pub concurrency_per_endpoint: usize,
    /// The timeout for an endpoint's response.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The pauses between a failed try and the next one. When a try fails after the last pause, the delivery fails
    /// permanently.
    #[serde(deserialize_with = "durations")]
    pub retries: Vec<Duration>,
    /// An endpoint is disabled when every try has failed for this long.
    #[serde(with = "duration")]
    pub disable_after: Duration,
    /// Retention of deliveries in the log.
    #[serde(with = "duration")]
    pub retention: Duration,
    /// How long the recording of an invalid event is retried before it becomes a dead letter.
    #[serde(with = "duration")]
    pub set_aside_after: Duration,
    /// How long events are also signed with the previous secret after a rotation.
    #[serde(with = "duration")]
    pub secret_grace: Duration,
    /// True if endpoints may use `http://`.
    pub allow_http: bool,
    /// True if endpoints may be in any network, including this machine.
    pub allow_private: bool,
    /// Networks that endpoints may be in although they are not public.
    #[serde(deserialize_with = "networks")]
    pub allow_networks: Vec<IpNet>,
    /// PEM file of certificate authorities that are trusted in addition to the system's. Empty: none.
    pub ca_file: String,
}

impl Settings {
    /// The first invalid setting, with a description of a valid value. Names are relative to the section.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let schedule: Duration = self.retries.iter().sum();
        let fault = |setting, what: &str| Some((setting, what.to_owned()));
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.interval) {
            return fault("interval", "must be from 10ms to 1m");
        }
        if !(1..=1000).contains(&self.concurrency) {
            return fault("concurrency", "must be from 1 to 1000");
        }
        if !(1..=self.concurrency).contains(&self.concurrency_per_endpoint) {
            return fault("concurrency_per_endpoint", "must be from 1 to order.webhooks.concurrency");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.timeout) {
            return fault("timeout", "must be from 100ms to 1m");
        }
        if !(1..=20).contains(&self.retries.len()) || self.retries.iter().any(|pause| *pause > 2 * DAY) {
            return fault("retries", "must be 1 to 20 times of at most 2days each");
        }
        if self.disable_after > 365 * DAY {
            return fault("disable_after", "must be 365days or less");
        }
        if self.retention < schedule + DAY || self.retention > 3650 * DAY {
            return fault(
                "retention",
                "must be longer than all of order.webhooks.retries by a day, and 3650days or less",
            );
        }
        if self.set_aside_after > DAY {
            return fault("set_aside_after", "must be 1day or less");
        }
        if self.secret_grace > 365 * DAY {
            return fault("secret_grace", "must be 365days or less");
        }
        self.authorities().err().map(|what| ("ca_file", what))
    }

    /// Reads the certificate authorities in `ca_file`.
    ///
    /// # Errors
    /// Says why the file has none.
    pub fn authorities(&self) -> Result<Vec<Certificate>, String> {
        if self.ca_file.is_empty() {
            return Ok(Vec::new());
        }
        let pem = std::fs::read(&self.ca_file).map_err(|error| format!("cannot be read: {error}"))?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err("must be a PEM file with one certificate or more".to_owned()),
        }
    }
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| duration::parse(text).map_err(D::Error::custom)).collect()
}

/// Read as one value, so that an error names a setting that exists.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let read = |text: &String| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| {
            D::Error::custom(format!("`{text}` is not a network: write one such as \"10.1.0.0/16\", or one address"))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(read).collect()
}
