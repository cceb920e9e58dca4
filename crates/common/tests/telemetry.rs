//! Tests telemetry with a real collector protocol and Prometheus format, over real connections.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use souk_common::client;
use souk_common::contract::Contract;
use souk_common::local::Local;
use souk_common::telemetry::{self, Config, Guard, metrics, propagation, span};
use souk_common::tls::{ClientSettings, ClientTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tracing_subscriber::layer::SubscriberExt;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What the collector received. A watch channel reports new data.
#[derive(Default)]
struct Received {
    /// Each span with the `service.name` of its resource.
    spans: Mutex<Vec<(String, Span)>>,
    metrics: Mutex<Vec<String>>,
}

struct Collector(Arc<Received>, Arc<tokio::sync::watch::Sender<()>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource_spans in request.into_inner().resource_spans {
            let attributes = resource_spans.resource.unwrap_or_default().attributes;
            let name = text(&attributes, "service.name").expect("a resource has a service.name");
            assert_eq!(text(&attributes, "service.instance.id").as_deref(), Some("replica-1"));
            assert_eq!(text(&attributes, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
            for scope in resource_spans.scope_spans {
                self.0.spans.lock().unwrap().extend(scope.spans.into_iter().map(|span| (name.clone(), span)));
            }
        }
        self.1.send_replace(());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics.into_iter();
        let metrics = resources.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics);
        self.0.metrics.lock().unwrap().extend(metrics.map(|metric| metric.name));
        self.1.send_replace(());
        Ok(Response::new(Default::default()))
    }
}

/// Telemetry is initialised once per process, so the tests share one setup, one collector and a runtime.
struct World {
    runtime: tokio::runtime::Runtime,
    received: Arc<Received>,
    more: Arc<tokio::sync::watch::Sender<()>>,
    guard: Guard,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let received = Arc::new(Received::default());
    let more = Arc::new(tokio::sync::watch::Sender::new(()));
    let guard = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // TLS on both sides. The test of traces in the `souk` crate covers connections without TLS.
        let authority = souk_testkit::tls::Authority::new();
        let (theirs, ours) = (authority.sign("collector"), authority.sign("souk"));
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read(&theirs.certificate), read(&theirs.key)))
            .client_ca_root(Certificate::from_pem(read(&authority.certificate())));
        let server = tonic::transport::Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(TraceServiceServer::new(Collector(received.clone(), more.clone())))
            .add_service(MetricsServiceServer::new(Collector(received.clone(), more.clone())))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        let config = Config {
            // The log filter must not affect traces.
            log_filter: "off".to_owned(),
            otlp_endpoint: format!("https://{address}"),
            otlp_tls: ClientSettings { ca: authority.certificate(), certificate: ours.certificate, key: ours.key },
            otlp_metrics_interval: Duration::from_millis(100),
            service_instance: "replica-1".to_owned(),
            ..Config::default()
        };
        telemetry::init(&config, "souk").unwrap()
    });
    World { runtime, received, more, guard }
});

impl World {
    /// Waits until the collector has what `find` looks for.
    async fn wait<T>(&self, what: &str, find: impl Fn(&Received) -> Option<T>) -> T {
        let mut more = self.more.subscribe();
        let found = async {
            loop {
                if let Some(found) = find(&self.received) {
                    return found;
                }
                more.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("{what} did not come"))
    }

    async fn span(&self, name: &str) -> (String, Span) {
        self.wait(name, |received| received.spans.lock().unwrap().iter().find(|(_, span)| span.name == name).cloned())
            .await
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn headers(traceparent: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static(traceparent));
    headers.insert("tracestate", HeaderValue::from_static("vendor=1"));
    headers
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: souk\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn a_collector_sees_one_trace_through_the_services_of_a_process() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let request = span::http_server("gateway", &http::Method::POST, "/v1/orders", &headers(TRACEPARENT));
        let sent = request
            .run(async {
                let call = span::client("souk.order.v1.OrderService", "PlaceOrder");
                let mut sent = HeaderMap::new();
                propagation::inject(&call, &mut sent);
                span::record_code(&call, tonic::Code::Unavailable, false);
                sent
            })
            .await;
        span::record_status(request.span(), http::StatusCode::CREATED);
        drop(request);
        assert_eq!(sent["tracestate"], "vendor=1");

        let served = span::server("order", "souk.order.v1.OrderService", "PlaceOrder/served", &sent);
        served.run(async { tracing::info_span!(target: "souk_order", "query").in_scope(|| {}) }).await;
        span::record_code(served.span(), tonic::Code::NotFound, true);
        drop(served);

        let (service, gateway) = world.span("POST /v1/orders").await;
        assert_eq!(service, "gateway");
        assert_eq!(
            (hex(&gateway.trace_id).as_str(), hex(&gateway.parent_span_id).as_str()),
            (TRACE, "00f067aa0ba902b7")
        );
        assert_eq!(gateway.kind(), SpanKind::Server);
        assert_eq!(text(&gateway.attributes, "http.response.status_code").as_deref(), Some("201"));

        let (service, call) = world.span("souk.order.v1.OrderService/PlaceOrder").await;
        assert_eq!(service, "gateway");
        assert_eq!((&call.trace_id, &call.parent_span_id), (&gateway.trace_id, &gateway.span_id));
        assert_eq!(call.kind(), SpanKind::Client);
        assert_eq!(call.status.as_ref().unwrap().code(), StatusCode::Error);

        let (service, order) = world.span("souk.order.v1.OrderService/PlaceOrder/served").await;
        assert_eq!(service, "order");
        assert_eq!((&order.trace_id, &order.parent_span_id), (&gateway.trace_id, &call.span_id));
        assert_eq!(text(&order.attributes, "rpc.response.status_code").as_deref(), Some("NOT_FOUND"));
        assert_eq!(order.status.unwrap_or_default().code(), StatusCode::Unset);

        let (service, query) = world.span("query").await;
        assert_eq!(service, "order", "a span below one of order's is order's");
        assert_eq!(text(&query.attributes, span::SERVICE).as_deref(), Some("order"));
        assert_eq!((&query.trace_id, &query.parent_span_id), (&gateway.trace_id, &order.span_id));
    });
}

#[test]
fn a_caller_that_does_not_sample_is_not_sampled() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        span::server("user", "souk.user.v1.UserService", "Unsampled", &headers(unsampled)).run(async {}).await;
        // Spans are sent in the order in which they end: once the later one has arrived, the earlier one would have,
        // too.
        span::job("user", "after-unsampled").run(async {}).await;
        let (service, job) = world.span("after-unsampled").await;
        assert_eq!(service, "user");
        assert!(job.parent_span_id.is_empty(), "a job begins a trace of its own");
        let spans = world.received.spans.lock().unwrap();
        assert!(!spans.iter().any(|(_, span)| span.name.ends_with("/Unsampled")));
    });
}

#[test]
fn prometheus_reads_the_metrics() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let address = world.guard.metrics_address().unwrap();
        let took = Duration::from_millis(3);
        metrics::rpc_server("souk.order.v1.OrderService", "PlaceOrder", tonic::Code::Ok, took);
        metrics::rpc_server("souk.order.v1.OrderService", "PlaceOrder", tonic::Code::Ok, took);
        metrics::rpc_client("souk.user.v1.UserService", "GetUser", tonic::Code::Unavailable, took);
        metrics::http_server(&http::Method::GET, "/v1/orders/{order}", http::StatusCode::NOT_FOUND, took);
        let running = metrics::rpc_in_flight("souk.order.v1.OrderService");
        let status = metrics::PoolStatus { used: 3, idle: 2, max: 16, pending: 1 };
        let pool = metrics::db_pool("order", move || status);

        metrics::rpc_client_retry("souk.user.v1.UserService", "GetUser", "retry");
        let config = client::Config { address: "http://127.0.0.1:1".into(), timeout: took, connect_timeout: took, tls: ClientTls::default(), local: Local::default() };
        let client = client::Client::new(&config, Contract::souk().unwrap(), None).unwrap();

        let scraped = get(address, "/metrics").await;
        assert!(scraped.starts_with("HTTP/1.1 200 OK\r\n"), "{scraped}");
        assert!(scraped.contains("content-type: text/plain; version=0.0.4"), "{scraped}");
        let order = r#"rpc_method="PlaceOrder",rpc_response_status_code="OK",rpc_service="souk.order.v1.OrderService""#;
        for line in [
            format!("rpc_server_duration_seconds_count{{{order}}} 2\n"),
            format!("rpc_server_duration_seconds_bucket{{{order},le=\"0.0025\"}} 0\n"),
            format!("rpc_server_duration_seconds_bucket{{{order},le=\"0.005\"}} 2\n"),
            "rpc_client_duration_seconds_count{rpc_method=\"GetUser\",rpc_response_status_code=\"UNAVAILABLE\",rpc_service=\"souk.user.v1.UserService\"} 1\n".to_owned(),
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"404\",http_route=\"/v1/orders/{order}\"} 1\n".to_owned(),
            "rpc_server_active_requests{rpc_service=\"souk.order.v1.OrderService\"} 1\n".to_owned(),
            "db_client_connection_count{db_client_connection_pool_name=\"order\",db_client_connection_state=\"used\"} 3\n".to_owned(),
            "db_client_connection_count{db_client_connection_pool_name=\"order\",db_client_connection_state=\"idle\"} 2\n".to_owned(),
            "db_client_connection_max{db_client_connection_pool_name=\"order\"} 16\n".to_owned(),
            "rpc_client_retries_total{kind=\"retry\",rpc_method=\"GetUser\",rpc_service=\"souk.user.v1.UserService\"} 1\n".to_owned(),
            "rpc_client_addresses{grpc_target=\"127.0.0.1:1\",server_address=\"127.0.0.1\",server_port=\"1\",state=\"down\"} 1\n".to_owned(),
            "rpc_client_breaker_open{grpc_target=\"127.0.0.1:1\"} 1\n".to_owned(),
            "db_client_connection_pending_requests{db_client_connection_pool_name=\"order\"} 1\n".to_owned(),
        ] {
            assert!(scraped.contains(&line), "{line} is not in\n{scraped}");
        }
        drop((running, pool, client));
        let scraped = get(address, "/metrics").await;
        assert!(scraped.contains("rpc_server_active_requests{rpc_service=\"souk.order.v1.OrderService\"} 0\n"), "{scraped}");
        assert!(!scraped.contains("db_client_connection_max{"), "{scraped}");
        assert!(!scraped.contains("rpc_client_breaker_open{"), "{scraped}");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "), "nothing else is served");

        world
            .wait("the metric at the collector", |received| {
                received.metrics.lock().unwrap().iter().find(|name| *name == "rpc.server.duration").cloned()
            })
            .await;
    });
}

#[test]
fn probes_are_answered_on_the_metrics_port() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let address = world.guard.metrics_address().unwrap();
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503 "), "nothing is served yet");
        let ready = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let asked = ready.clone();
        let stock = telemetry::probes::ready_while("stock", move || {
            let ready = asked.load(std::sync::atomic::Ordering::Relaxed);
            async move { ready }
        });
        let silent = telemetry::probes::ready_while("silent", || async { true });
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"name\": \"stock\""), "{answer}");
        ready.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        drop(stock);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        drop(silent);

        // Connections are limited in number and in time.
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let found = souk_testkit::wait::value(Duration::from_secs(30), "a free place", async || {
            let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.ok()?;
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.ok()?;
            answer.starts_with("HTTP/1.1 200 ").then_some(())
        });
        found.await;
        drop(held);
    });
}

#[test]
fn a_second_setup_in_the_process_has_its_own_listener() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let config = Config { log_filter: "off".to_owned(), ..Config::default() };
        let second = telemetry::init(&config, "order").unwrap();
        let address = second.metrics_address().unwrap();
        assert_ne!(Some(address), world.guard.metrics_address());
        assert!(get(address, "/metrics").await.contains("target_info{"));

        let taken = Config { metrics_listen: address.to_string(), ..config };
        let error = telemetry::init(&taken, "order").unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "cannot listen on telemetry.metrics_listen \"{address}\": Address already in use"
            )),
            "{error}"
        );

        second.shutdown().await;
        // Another test may use the port for a while, but not as souk's metrics port.
        let free = souk_testkit::wait::value(Duration::from_secs(30), "the port to be free", async || {
            telemetry::init(&taken, "order").ok()
        });
        free.await.shutdown().await;
    });
}

#[test]
fn pending_telemetry_is_sent_at_shutdown() {
    let world = &*WORLD;
    world.runtime.block_on(async {
        let config = Config { metrics_listen: String::new(), log_filter: "off".to_owned(), ..Config::default() };
        let guard = telemetry::init(&config, "order").unwrap();
        span::job("order", "last-words").run(async {}).await;
        guard.shutdown().await;
        let spans = world.received.spans.lock().unwrap();
        assert!(spans.iter().any(|(_, span)| span.name == "last-words"));
    });
}

#[test]
fn errors_of_wrong_settings_name_valid_values() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let no_such_file = || ClientSettings { ca: "/no/such.pem".into(), ..ClientSettings::default() };
    let endpoint = |endpoint: &str| Config { otlp_endpoint: endpoint.to_owned(), ..Config::default() };
    let cases = [
        (
            endpoint("collector:4317"),
            "telemetry.otlp_endpoint is \"collector:4317\": it must begin with http:// or https://, such as",
        ),
        (
            endpoint("http://a b"),
            "telemetry.otlp_endpoint is \"http://a b\": invalid URI; it must be an address, such as",
        ),
        (
            Config { otlp_tls: no_such_file(), ..endpoint("https://127.0.0.1:1") },
            "telemetry.otlp_tls.ca: /no/such.pem cannot be read",
        ),
        (
            Config { otlp_tls: no_such_file(), ..endpoint("http://127.0.0.1:1") },
            "telemetry.otlp_endpoint is \"http://127.0.0.1:1\": it must begin with https:// where telemetry.otlp_tls is set",
        ),
        (Config { log_filter: "souk=loud".to_owned(), ..Config::default() }, "telemetry.log_filter is \"souk=loud\""),
        (
            Config { otlp_sample_ratio: 2.0, ..Config::default() },
            "telemetry.otlp_sample_ratio is 2: it must be from 0 (none) to 1 (all)",
        ),
        (
            Config { metrics_listen: "here".to_owned(), ..Config::default() },
            "cannot listen on telemetry.metrics_listen \"here\"",
        ),
    ];
    for (config, text) in cases {
        let error = telemetry::init(&config, "order").unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}

/// Runs `work` on this thread without an OpenTelemetry layer, as without a collector. Returns the log lines.
fn without_collector(work: impl Future<Output = ()>) -> Vec<HashMap<String, serde_json::Value>> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || writer.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(work));
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn without_a_collector_the_callers_trace_is_passed_on_unchanged_and_logged() {
    let lines = without_collector(async {
        let request = span::server("order", "souk.order.v1.OrderService", "PlaceOrder", &headers(TRACEPARENT));
        let sent = request
            .run(async {
                tracing::info!("placing");
                tokio::task::yield_now().await;
                let call = span::client("souk.inventory.v1.ReservationService", "Reserve");
                let mut sent = HeaderMap::new();
                propagation::inject(&call, &mut sent);
                sent
            })
            .await;
        assert_eq!(sent, headers(TRACEPARENT));

        // Work after or beside it does not belong to that trace.
        let mut other = HeaderMap::new();
        propagation::inject(&tracing::Span::current(), &mut other);
        assert!(other.is_empty(), "{other:?}");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["message"], "placing");
    assert_eq!(lines[0]["span"]["trace_id"], TRACE);
    assert_eq!(lines[0]["span"]["souk.service"], "order");
}

#[test]
fn a_broken_traceparent_counts_as_missing() {
    without_collector(async {
        for headers in [
            HeaderMap::new(),
            headers("00-xyz-1-01"),
            headers("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        ] {
            let request = span::server("order", "souk.order.v1.OrderService", "GetOrder", &headers);
            let sent = request
                .run(async {
                    let mut sent = HeaderMap::new();
                    propagation::inject(&tracing::Span::current(), &mut sent);
                    sent
                })
                .await;
            assert!(sent.is_empty(), "{sent:?}");
        }
    });
}
