//! Logs, traces and metrics of a process: set up once at its start, flushed at its end.
//!
//! Without a collector (`otlp_endpoint` is empty) there is no OpenTelemetry layer, and a span costs no more than a log
//! filter. The trace context of a caller is still passed on, and its trace id is logged (see [`propagation`]).

pub(crate) mod addresses;
mod config;
pub mod metrics;
mod operations;
mod otlp;
pub mod probes;
pub mod propagation;
mod sampled;
pub mod span;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::tls::TlsError;
pub use config::{Config, LogFormat};
pub use sampled::Sampled;

/// The timeout of sending the last spans and metrics at the end of a process.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The reason why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `telemetry.log_filter` is invalid.
    #[error(
        "telemetry.log_filter is {filter:?}: {source}; write a level such as \"info\" or \"warn,souk_order=debug\""
    )]
    Filter {
        /// The value of the setting.
        filter: String,
        /// The error of the parser.
        source: tracing_subscriber::filter::ParseError,
    },
    /// `telemetry.otlp_sample_ratio` is out of range.
    #[error("telemetry.otlp_sample_ratio is {0}: it must be from 0 (none) to 1 (all)")]
    Ratio(f64),
    /// `telemetry.otlp_endpoint` is not the address of a collector.
    #[error("telemetry.otlp_endpoint is {endpoint:?}: {why}, such as \"http://127.0.0.1:4317\"")]
    Endpoint {
        /// The value of the setting.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// A file of `telemetry.otlp_tls` is missing, unreadable or invalid.
    #[error("telemetry.otlp_tls.{}: {}", .0.setting(), crate::error::chain(.0))]
    Tls(TlsError),
    /// The process cannot listen on `telemetry.metrics_listen`.
    #[error(
        "cannot listen on telemetry.metrics_listen {address:?}: {source}; port 0 takes a free one, \"\" turns the endpoint off"
    )]
    Bind {
        /// The value of the setting.
        address: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// An exporter cannot be created.
    #[error("cannot set up OpenTelemetry export: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The Prometheus reader cannot be created.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// [`init`] was called outside of a tokio runtime.
    #[error("telemetry must be set up inside a tokio runtime")]
    NoRuntime(#[from] tokio::runtime::TryCurrentError),
}

/// The exporters of the process, created once by the first [`init`] that needs one.
#[derive(Debug)]
struct Pipelines {
    traces: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
    registry: ::prometheus::Registry,
}

static PIPELINES: Mutex<Option<Arc<Pipelines>>> = Mutex::new(None);

/// Sets up logs, traces and metrics as configured. `service` ("order", or "souk" for all in one process) is the
/// `service.name` of spans that belong to no service.
///
/// A second call in the same process opens its own metrics listener, and leaves logs and export as the first call set
/// them up.
///
/// # Errors
/// If a setting is wrong or the metrics port is in use. In that case nothing is set up.
pub fn init(config: &Config, service: &str) -> Result<Guard, TelemetryError> {
    tokio::runtime::Handle::try_current()?;
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|source| TelemetryError::Filter { filter: config.log_filter.clone(), source })?;
    if !(0.0..=1.0).contains(&config.otlp_sample_ratio) {
        return Err(TelemetryError::Ratio(config.otlp_sample_ratio));
    }
    let collector = match config.otlp_endpoint.as_str() {
        "" => None,
        endpoint => Some(otlp::channel(endpoint, &config.otlp_tls)?),
    };
    let listener = match config.metrics_listen.as_str() {
        "" => None,
        address => Some(operations::bind(address)?),
    };
    let pipelines = pipelines(config, service, collector)?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    log(config, filter, pipelines.as_deref().and_then(|pipelines| pipelines.traces.as_ref()));

    let stop = CancellationToken::new();
    let metrics_address = match (listener, &pipelines) {
        (Some(listener), Some(pipelines)) => {
            let served = operations::serve(listener, pipelines.registry.clone(), stop.clone());
            let failed = |source| TelemetryError::Bind { address: config.metrics_listen.clone(), source };
            Some(served.map_err(failed)?)
        }
        _ => None,
    };
    Ok(Guard { metrics_address, pipelines, stop, flushed: false })
}

fn pipelines(
    config: &Config,
    service: &str,
    collector: Option<Channel>,
) -> Result<Option<Arc<Pipelines>>, TelemetryError> {
    let mut made = PIPELINES.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = collector.is_some() || !config.metrics_listen.is_empty();
    if made.is_none() && wanted {
        let resource = resource(config, service);
        let registry = ::prometheus::Registry::new();
        let reader =
            opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false).build()?;
        let mut metrics =
            SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader).with_view(metrics::buckets);
        let mut traces = None;
        if let Some(channel) = collector {
            metrics = metrics.with_reader(otlp::metrics(config, channel.clone())?);
            traces = Some(otlp::traces(config, channel, &resource)?);
        }
        let metrics = metrics.build();
        metrics::install(&metrics.meter("souk"));
        opentelemetry::global::set_meter_provider(metrics.clone());
        *made = Some(Arc::new(Pipelines { traces, metrics, registry }));
    }
    Ok(made.clone())
}

fn resource(config: &Config, service: &str) -> Resource {
    let instance = match config.service_instance.as_str() {
        "" => uuid::Uuid::new_v4().to_string(),
        given => given.to_owned(),
    };
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attributes([
            KeyValue::new("service.namespace", "souk"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance),
        ])
        .build()
}

/// Sets up the output of log lines and spans. Each has its own filter, so that the log filter does not affect traces.
fn log(config: &Config, filter: EnvFilter, traces: Option<&SdkTracerProvider>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Pretty => lines.compact().with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed(),
    };
    // Only the spans of souk. Those of the HTTP and gRPC libraries are too many, and the exporter would trace its own
    // calls.
    let spans = traces.map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer("souk"))
            .with_location(false)
            .with_threads(false)
            .with_filter(Targets::new().with_target("souk", LevelFilter::INFO))
    });
    let set = tracing_subscriber::registry().with(lines).with(spans).try_init();
    match set {
        Ok(()) if traces.is_some() => span::sent(),
        Ok(()) => {}
        Err(_) => tracing::debug!("logs were already set up in this process"),
    }
}

/// Keeps telemetry running. Flushes what has not been sent when [`shut down`](Guard::shutdown) or dropped.
#[derive(Debug)]
#[must_use = "dropping it closes the metrics endpoint"]
pub struct Guard {
    metrics_address: Option<SocketAddr>,
    pipelines: Option<Arc<Pipelines>>,
    stop: CancellationToken,
    flushed: bool,
}

impl Guard {
    /// The address of the metrics listener, with the actual port.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Closes the metrics endpoint and sends what has not been sent. Takes at most five seconds.
    pub async fn shutdown(mut self) {
        self.flushed = true;
        let (done, wait) = tokio::sync::oneshot::channel();
        self.flush(move || {
            let _ = done.send(());
        });
        if tokio::time::timeout(FLUSH_LIMIT, wait).await.is_err() {
            tracing::warn!("the collector did not accept the last spans and metrics in time");
        }
    }

    /// Flushes on a separate thread: flushing blocks, and the connection may need the runtime of the current thread.
    /// The pipelines exist as long as the process, because the subscriber and the instruments use them.
    fn flush(&self, done: impl FnOnce() + Send + 'static) {
        self.stop.cancel();
        let pipelines = self.pipelines.clone();
        std::thread::spawn(move || {
            let Some(pipelines) = pipelines else {
                return done();
            };
            let traces = pipelines.traces.as_ref().map_or(Ok(()), SdkTracerProvider::force_flush);
            for result in [traces, pipelines.metrics.force_flush()] {
                if let Err(error) = result {
                    tracing::warn!(%error, "the collector did not accept the last spans and metrics");
                }
            }
            done();
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.flushed {
            // Best effort: on a single-threaded runtime, the connection makes no progress while this thread waits.
            let (done, wait) = std::sync::mpsc::channel();
            self.flush(move || {
                let _ = done.send(());
            });
            let _ = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}
