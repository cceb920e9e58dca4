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
    /// The filter of log lines, in the syntax of `EnvFilter` of `tracing`.
    pub log_filter: String,
    /// gRPC address of an OpenTelemetry collector, `http://host:port` or `https://host:port`. Empty: nothing is sent.
    pub otlp_endpoint: String,
    /// TLS for `https://` collectors: the authority of the collector's certificate, and souk's client certificate.
    #[serde(default)]
    pub otlp_tls: ClientSettings,
    /// The share of the traces begun in this process that is sent, from 0 to 1.
    pub otlp_sample_ratio: f64,
    /// The interval at which metrics are sent to the collector.
    #[serde(with = "config::duration")]
    pub otlp_metrics_interval: Duration,
    /// Address of the Prometheus endpoint. Port 0: any free port. Empty: no endpoint.
    pub metrics_listen: String,
    /// Identifies this replica (`service.instance.id`). Empty: a new id at each start.
    pub service_instance: String,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A format for people, coloured on a terminal.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    /// The same values as in the default text. A test compares the two.
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
    fn the_default_value_equals_the_default_text() {
        let settings = config::Loader::new().load().unwrap();
        let read: Config = settings.section("telemetry").unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(Config::default()).unwrap());
    }
}
