//! Sends spans and metrics to an OpenTelemetry collector, each span under the name of its own service.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::lock::Mutex;
use opentelemetry::trace::Span as _;
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as Exporter,
    SpanProcessor,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::span::{SERVICE, Service};
use super::{Config, TelemetryError};
use crate::tls::ClientSettings;

/// The timeout of one message to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum time that spans are collected before they are sent in a batch.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// The connection to the collector. It is opened at the first use and reopened when it is lost.
pub(super) fn channel(endpoint: &str, tls: &ClientSettings) -> Result<Channel, TelemetryError> {
    let wrong = |why: String| TelemetryError::Endpoint { endpoint: endpoint.to_owned(), why };
    let secure = endpoint.starts_with("https://");
    if !secure && !endpoint.starts_with("http://") {
        return Err(wrong("it must begin with http:// or https://".to_owned()));
    }
    if !secure && !tls.is_empty() {
        return Err(wrong("it must begin with https:// where telemetry.otlp_tls is set".to_owned()));
    }
    let mut channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| wrong(format!("{error}; it must be an address")))?
        .connect_timeout(TIMEOUT);
    if secure {
        let pem = tls.pem().map_err(TelemetryError::Tls)?;
        let mut config = match pem.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = pem.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        channel = channel.tls_config(config).map_err(|error| wrong(format!("{error}; it must be an address")))?;
    }
    Ok(channel.connect_lazy())
}

/// Creates the provider of spans that are sent to the collector.
pub(super) fn traces(
    config: &Config,
    channel: Channel,
    resource: &Resource,
) -> Result<SdkTracerProvider, TelemetryError> {
    let sampler = Sampler::TraceIdRatioBased(config.otlp_sample_ratio);
    let exporter = ByService {
        own: exporter(&channel)?,
        channel,
        resource: resource.clone(),
        others: Mutex::default(),
        failing: AtomicBool::new(false),
    };
    let batches = BatchConfigBuilder::default().with_scheduled_delay(BATCH_DELAY).build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource.clone())
        .with_span_processor(NameService)
        .with_span_processor(batches)
        .build())
}

/// Creates the reader that sends the metrics at intervals.
pub(super) fn metrics(config: &Config, channel: Channel) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
    let exporter = MetricExporter::builder().with_tonic().with_channel(channel).with_timeout(TIMEOUT).build()?;
    Ok(PeriodicReader::builder(exporter).with_interval(config.otlp_metrics_interval).build())
}

fn exporter(channel: &Channel) -> Result<SpanExporter, opentelemetry_otlp::ExporterBuildError> {
    SpanExporter::builder().with_tonic().with_channel(channel.clone()).with_timeout(TIMEOUT).build()
}

/// Sets the service of each span from its context.
#[derive(Debug)]
struct NameService;

impl SpanProcessor for NameService {
    fn on_start(&self, span: &mut Span, context: &Context) {
        if let Some(Service(name)) = context.get::<Service>() {
            span.set_attribute(KeyValue::new(SERVICE, name.clone()));
        }
    }

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans with the `service.name` of the service they belong to. A collector reads the name from the resource, but
/// a process has only one resource. So each service gets its own exporter with its own resource. All of them share one
/// connection.
#[derive(Debug)]
struct ByService {
    own: SpanExporter,
    channel: Channel,
    resource: Resource,
    others: Mutex<HashMap<String, Arc<SpanExporter>>>,
    failing: AtomicBool,
}

impl ByService {
    async fn exporter_of(&self, service: &str) -> Option<Arc<SpanExporter>> {
        let mut others = self.others.lock().await;
        if let Some(exporter) = others.get(service) {
            return Some(exporter.clone());
        }
        let mut made = exporter(&self.channel).ok()?;
        let rest = self.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let resource = Resource::builder_empty().with_attributes(rest).with_service_name(service.to_owned());
        made.set_resource(&resource.build());
        let made = Arc::new(made);
        others.insert(service.to_owned(), made.clone());
        Some(made)
    }
}

impl ByService {
    /// Logs when the collector becomes unreachable and when it is back. The SDK would log every lost batch in between.
    fn report(&self, result: OTelSdkResult) {
        let failed = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !failed => {
                tracing::warn!(%error, "cannot send spans to the collector; spans are lost until it recovers");
            }
            Ok(()) if failed => tracing::info!("sending spans to the collector again"),
            _ => {}
        }
    }
}

impl Exporter for ByService {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut groups: HashMap<Option<String>, Vec<SpanData>> = HashMap::new();
        for span in batch {
            groups.entry(service_of(&span)).or_default().push(span);
        }
        let mut result = Ok(());
        for (service, spans) in groups {
            let exporter = match &service {
                Some(name) => self.exporter_of(name).await,
                None => None,
            };
            let sent = match exporter {
                Some(exporter) => exporter.export(spans).await,
                None => self.own.export(spans).await,
            };
            result = result.and(sent);
        }
        self.report(result);
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.own.set_resource(resource);
    }
}

fn service_of(span: &SpanData) -> Option<String> {
    span.attributes.iter().rev().find(|attribute| attribute.key.as_str() == SERVICE).map(|attribute| {
        match &attribute.value {
            Value::String(name) => name.as_str().to_owned(),
            other => other.to_string(),
        }
    })
}
