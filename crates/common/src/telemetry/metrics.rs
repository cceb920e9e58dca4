//! The metrics of all services: small functions that the code calls when something happens.
//!
//! Names follow OpenTelemetry's semantic conventions. Prometheus shows `rpc.server.duration` as
//! `rpc_server_duration_seconds`. Before [`super::init`], or if metrics are off, each function returns at once. Labels
//! must have few values: use the template of a route, never its path; a method, never an id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, Stream};

/// Upper bounds of duration buckets, in seconds. They range from a cached response on this machine to a request at its
/// deadline.
const BOUNDARIES: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Sets these buckets for every histogram in seconds. The default buckets of the SDK are meant for milliseconds.
pub(super) fn buckets(instrument: &Instrument) -> Option<Stream> {
    let fits = instrument.kind() == InstrumentKind::Histogram && instrument.unit() == "s";
    let boundaries = fits.then(|| BOUNDARIES.to_vec())?;
    let aggregation = Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: false };
    Stream::builder().with_aggregation(aggregation).build().ok()
}

/// Upper bounds of batch size buckets, in requests.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

struct Instruments {
    rpc_server: Histogram<f64>,
    rpc_client: Histogram<f64>,
    rpc_client_retries: Counter<u64>,
    rpc_active: UpDownCounter<i64>,
    http_server: Histogram<f64>,
    http_active: UpDownCounter<i64>,
    rate_limited: Counter<u64>,
    response_cache: Counter<u64>,
    redis_up: Gauge<u64>,
    connections_closed: Counter<u64>,
    unread: Counter<u64>,
    batch_size: Histogram<u64>,
    batch_wait: Histogram<f64>,
}

/// Creates the instruments, once per process.
pub(super) fn install(meter: &Meter) {
    INSTRUMENTS.get_or_init(|| {
        observe_pools(meter);
        super::addresses::install(meter);
        let seconds = |name: &'static str, description: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_description(description).build()
        };
        let active = |name: &'static str, description: &'static str| {
            meter.i64_up_down_counter(name).with_description(description).build()
        };
        Instruments {
            rpc_server: seconds("rpc.server.duration", "Time to answer an RPC"),
            rpc_client: seconds("rpc.client.duration", "Time until an RPC sent to another service is answered"),
            rpc_client_retries: meter
                .u64_counter("rpc.client.retries")
                .with_description("Further tries of an RPC sent to another service")
                .build(),
            rpc_active: active("rpc.server.active_requests", "RPCs being answered"),
            http_server: seconds("http.server.request.duration", "Time to answer an HTTP request"),
            http_active: active("http.server.active_requests", "HTTP requests being answered"),
            rate_limited: meter
                .u64_counter("souk.gateway.rate_limited")
                .with_description("Requests refused because a budget was used up, by rate class and whose budget")
                .build(),
            response_cache: meter
                .u64_counter("souk.gateway.response_cache")
                .with_description("Answers of methods that may be kept, by where they came from")
                .build(),
            redis_up: meter
                .u64_gauge("souk.gateway.redis_up")
                .with_description("Whether budgets are shared through Redis now (1) or it is lost (0)")
                .build(),
            connections_closed: meter
                .u64_counter("souk.gateway.connections_closed")
                .with_description("Clients' connections that were closed or refused because of a limit, by why")
                .build(),
            unread: meter
                .u64_counter("souk.gateway.unread")
                .with_description("Responses dropped because they were not read, and requests refused for it")
                .build(),
            batch_size: meter
                .u64_histogram("souk.batch.size")
                .with_boundaries(SIZES.to_vec())
                .with_description("Requests that shared a commit or a call")
                .build(),
            batch_wait: seconds("souk.batch.wait", "Time that a request waited for its batch to begin"),
        }
    });
}

/// Records a finished RPC of this server. `service` is the full name, `souk.order.v1.OrderService`.
pub fn rpc_server(
    service: impl Into<StringValue>,
    method: impl Into<StringValue>,
    code: tonic::Code,
    elapsed: Duration,
) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.rpc_server.record(elapsed.as_secs_f64(), &rpc(service, method, code));
    }
}

/// Records a finished call to another service.
pub fn rpc_client(
    service: impl Into<StringValue>,
    method: impl Into<StringValue>,
    code: tonic::Code,
    elapsed: Duration,
) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.rpc_client.record(elapsed.as_secs_f64(), &rpc(service, method, code));
    }
}

/// Counts a repeated call to another service: after a failure (`retry`), or in addition to a slow try (`hedge`).
pub fn rpc_client_retry(service: impl Into<StringValue>, method: impl Into<StringValue>, kind: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        let attributes = [
            KeyValue::new("rpc.service", service.into()),
            KeyValue::new("rpc.method", method.into()),
            KeyValue::new("kind", kind),
        ];
        instruments.rpc_client_retries.add(1, &attributes);
    }
}

fn rpc(service: impl Into<StringValue>, method: impl Into<StringValue>, code: tonic::Code) -> [KeyValue; 3] {
    [
        KeyValue::new("rpc.service", service.into()),
        KeyValue::new("rpc.method", method.into()),
        KeyValue::new("rpc.response.status_code", crate::error::code_name(code)),
    ]
}

/// Counts an RPC of this service as running until the value is dropped.
pub fn rpc_in_flight(service: impl Into<StringValue>) -> InFlight {
    InFlight::new(|instruments| &instruments.rpc_active, || vec![KeyValue::new("rpc.service", service.into())])
}

/// Records a finished HTTP request. `route` is the template (`/v1/orders/{order}`), or "" if no route matched.
pub fn http_server(method: &http::Method, route: &str, status: http::StatusCode, elapsed: Duration) {
    if let Some(instruments) = INSTRUMENTS.get() {
        let attributes = [
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        ];
        instruments.http_server.record(elapsed.as_secs_f64(), &attributes);
    }
}

/// Counts an HTTP request as running until the value is dropped.
pub fn http_in_flight() -> InFlight {
    InFlight::new(|instruments| &instruments.http_active, Vec::new)
}

/// Counts a request that was refused because a budget of this rate class (`read`) was used up. `whose` is `caller` or
/// `address`.
pub fn rate_limited(class: &'static str, whose: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.rate_limited.add(1, &[KeyValue::new("class", class), KeyValue::new("whose", whose)]);
    }
}

/// Counts a cacheable response. `outcome` is `hit`, `stale`, `miss`, or `collapsed` if the request shared the miss of
/// another one.
pub fn response_cache(outcome: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.response_cache.add(1, &[KeyValue::new("outcome", outcome)]);
    }
}

/// Records whether Redis is connected.
pub fn redis_up(up: bool) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.redis_up.record(up.into(), &[]);
    }
}

/// Counts a client connection that was closed because it was `idle`, because it was idle when too many were open
/// (`full`), or because its client does not read (`unread`); or a connection that was `refused`.
pub fn connection_closed(why: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.connections_closed.add(1, &[KeyValue::new("why", why)]);
    }
}

/// Counts a response that was `given_up` because its client does not read it, or a request that was `refused` because
/// there are too many such responses.
pub fn unread(outcome: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments.unread.add(1, &[KeyValue::new("outcome", outcome)]);
    }
}

/// Records the start of a batch. `waits` has the waiting time of each of its requests. `of` names what they ask for
/// (`stock`).
pub fn batch(of: &'static str, waits: impl ExactSizeIterator<Item = Duration>) {
    if let Some(instruments) = INSTRUMENTS.get() {
        let of = [KeyValue::new("of", of)];
        instruments.batch_size.record(waits.len() as u64, &of);
        for wait in waits {
            instruments.batch_wait.record(wait.as_secs_f64(), &of);
        }
    }
}

/// An operation that is counted as running. Dropping the value ends the count, however the operation ends.
#[derive(Debug)]
#[must_use = "dropping it ends the count at once"]
pub struct InFlight(Option<(&'static UpDownCounter<i64>, Vec<KeyValue>)>);

impl InFlight {
    fn new(
        counter: impl FnOnce(&'static Instruments) -> &'static UpDownCounter<i64>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Self {
        Self(INSTRUMENTS.get().map(|instruments| {
            let (counter, attributes) = (counter(instruments), attributes());
            counter.add(1, &attributes);
            (counter, attributes)
        }))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((counter, attributes)) = &self.0 {
            counter.add(-1, attributes);
        }
    }
}

/// The state of a pool of database connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// The number of connections in use.
    pub used: usize,
    /// The number of open connections that are not in use.
    pub idle: usize,
    /// The maximum number of connections.
    pub max: usize,
    /// The number of tasks that wait for a connection.
    pub pending: usize,
}

type Observer = Box<dyn Fn() -> PoolStatus + Send + Sync>;

static POOLS: Mutex<Vec<(u64, StringValue, Observer)>> = Mutex::new(Vec::new());

/// Adds a pool to the metrics under this name ("order") until the returned value is dropped. `status` is called at each
/// reading and must not block.
pub fn db_pool(name: impl Into<StringValue>, status: impl Fn() -> PoolStatus + Send + Sync + 'static) -> PoolMetrics {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    pools().push((id, name.into(), Box::new(status)));
    PoolMetrics(id)
}

/// Keeps a pool in the metrics.
#[derive(Debug)]
#[must_use = "dropping it takes the pool out of the metrics"]
pub struct PoolMetrics(u64);

impl Drop for PoolMetrics {
    fn drop(&mut self) {
        pools().retain(|(id, ..)| *id != self.0);
    }
}

fn pools() -> std::sync::MutexGuard<'static, Vec<(u64, StringValue, Observer)>> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn observe_pools(meter: &Meter) {
    type Values = fn(PoolStatus) -> Vec<(Option<&'static str>, usize)>;
    let instruments: [(&'static str, &'static str, Values); 3] = [
        ("db.client.connection.count", "Open database connections", |pool| {
            vec![(Some("used"), pool.used), (Some("idle"), pool.idle)]
        }),
        ("db.client.connection.max", "Database connections there may be", |pool| vec![(None, pool.max)]),
        ("db.client.connection.pending_requests", "Who waits for a database connection", |pool| {
            vec![(None, pool.pending)]
        }),
    ];
    for (name, description, values) in instruments {
        let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<i64>| {
            for (_, pool, status) in pools().iter() {
                for (state, value) in values(status()) {
                    let mut attributes = vec![KeyValue::new("db.client.connection.pool.name", pool.clone())];
                    attributes.extend(state.map(|state| KeyValue::new("db.client.connection.state", state)));
                    observer.observe(i64::try_from(value).unwrap_or(i64::MAX), &attributes);
                }
            }
        };
        meter.i64_observable_up_down_counter(name).with_description(description).with_callback(callback).build();
    }
}
