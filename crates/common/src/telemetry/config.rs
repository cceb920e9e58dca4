//! The `[telemetry]` settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{config, tls::ClientSettings};

/// Settings of logs, metrics and traces.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The format of log lines, which go to standard error.
    pub log_format: LogFormat,
    /// Which log lines are written, in `tracing`'s `EnvFilter` syntax.
    pub log_filter: String,
    /// gRPC address of an OpenTelemetry collector, `http://host:port` or `https://host:port`; empty: nothing is sent.
    pub otlp_endpoint: String,
    /// For `https://`: whom the collector's certificate must be signed by, and what it is shown.
    #[serde(default)]
    pub otlp_tls: ClientSettings,
    /// Share of the traces begun here that are sent, 0 to 1.
    pub otlp_sample_ratio: f64,
    /// How often metrics are sent to the collector.
    #[serde(with = "config::duration")]
    pub otlp_metrics_interval: Duration,
    /// Address of the Prometheus endpoint; port 0: any free one; empty: none.
    pub metrics_listen: String,
    /// Tells this replica from the others (`service.instance.id`); empty: made at each start.
    pub service_instance: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    /// As in the default text; a test holds the two together.
    fn default() -> Self {
        Self {
            log_format: LogFormat::Pretty,
            log_filter: "info".to_owned(),
            otlp_endpoint: String::new(),
            otlp_tls: ClientSettings::default(),
            otlp_sample_ratio: 1.0,
            otlp_metrics_interval: Duration::from_secs(15),
            metrics_listen: "127.0.0.1:0".to_owned(),
            service_instance: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_default_text() {
        let settings = config::Loader::new().load().unwrap();
        let read: Config = settings.section("telemetry").unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(Config::default()).unwrap());
    }
}
