//! An order that passes all four services is one trace, at a real OTLP receiver.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use souk_testkit::wait;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{
    cluster::Up,
    rest::{Rest, order},
};

#[derive(Clone, Default)]
struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().await.extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        self.metrics.lock().await.extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
        Ok(Response::new(Default::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_one_trace_through_all_four_services() {
    let receiver = Receiver::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(receiver.clone()))
        .add_service(MetricsServiceServer::new(receiver.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let up = Up::start_with(|program| {
        program.env("SOUK_TELEMETRY__OTLP_ENDPOINT", &endpoint).env("SOUK_TELEMETRY__OTLP_METRICS_INTERVAL", "1s")
    })
    .await;
    let admin = up.admin().await;
    let product = admin.product("TRACED", 5).await;
    // A customer whose token the services have not seen, so that they also ask the user service for its keys.
    let customer = Rest::anonymous(&up.gateway).customer("ann").await;
    let placed = customer.post("/v1/orders", order("traced", &[(&product, 1)], "tok_approved")).await.ok();
    assert_eq!(placed["state"], "STATE_CONFIRMED");

    let services = wait::value(Duration::from_secs(30), "the order's trace", async || {
        let spans = receiver.spans.lock().await;
        let root = spans.iter().find(|span| span.name.contains("POST /v1/orders") && span.parent_span_id.is_empty())?;
        let services: BTreeSet<String> = spans
            .iter()
            .filter(|span| span.trace_id == root.trace_id)
            .filter_map(|span| attribute(&span.attributes, "souk.service"))
            .collect();
        (services.len() >= 4).then_some(services)
    })
    .await;
    assert_eq!(services.iter().map(String::as_str).collect::<Vec<_>>(), ["gateway", "inventory", "order", "user"]);

    wait::until(Duration::from_secs(30), "metrics", async || {
        receiver.metrics.lock().await.iter().any(|name| name.starts_with("rpc.server"))
    })
    .await;
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
