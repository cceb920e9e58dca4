//! The spans of requests, calls and jobs, with their names and attributes.
//!
//! Spans at the edge always have the level ERROR, whether the request succeeds or not. So a log filter of "warn" keeps
//! them, and each line that it lets through has the request id and the trace id. The `otel.*` fields have no use in
//! logs, so they are set only if spans are sent to a collector.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, TraceId};
use tracing::field::{Empty, display};
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::propagation;

/// The span attribute with the name of the service that does the work.
pub const SERVICE: &str = "souk.service";

/// True if spans of this process are sent to a collector.
static SENT: AtomicBool = AtomicBool::new(false);

/// Records that spans are now sent to a collector.
pub(super) fn sent() {
    SENT.store(true, Ordering::Relaxed);
}

/// The service that the work belongs to. It is part of the context, so every span below inherits it. In `souk up` four
/// services share a process, so the resource of the process does not identify the service.
#[derive(Debug, Clone)]
pub(super) struct Service(pub(super) Arc<str>);

/// A span at the edge of a service, with the trace context it continues.
#[derive(Debug, Clone)]
pub struct RequestSpan {
    span: Span,
    context: Context,
}

/// A future that runs in a [`RequestSpan`].
pub type InSpan<F> = WithContext<Instrumented<F>>;

/// The span of an RPC that `service` ("order") serves. `rpc_service` is the full name (`souk.order.v1.OrderService`).
/// Continues the trace of the request's headers. The layer that knows the `request_id` records it.
pub fn server(service: &str, rpc_service: &str, rpc_method: &str, headers: &HeaderMap) -> RequestSpan {
    let context = propagation::extract(headers);
    let sent = SENT.load(Ordering::Relaxed);
    let span = tracing::error_span!(
        // No parent: the trace comes from the headers, even if the caller is in this process.
        parent: None,
        "rpc",
        otel.name = sent.then(|| format!("{rpc_service}/{rpc_method}")),
        otel.kind = sent.then_some("server"),
        otel.status_code = Empty,
        rpc.system = sent.then_some("grpc"),
        rpc.service = rpc_service,
        rpc.method = rpc_method,
        rpc.response.status_code = Empty,
        souk.service = service,
        request_id = Empty,
        trace_id = trace_of(&context).map(display),
    );
    RequestSpan::continuing(span, service, context)
}

/// The span of an HTTP request that `service` ("gateway") serves. `route` is the template, such as
/// `/v1/orders/{order}`, never the path itself.
pub fn http_server(service: &str, method: &http::Method, route: &str, headers: &HeaderMap) -> RequestSpan {
    let context = propagation::extract(headers);
    let sent = SENT.load(Ordering::Relaxed);
    let span = tracing::error_span!(
        "http",
        otel.name = sent.then(|| format!("{method} {route}")),
        otel.kind = sent.then_some("server"),
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
        souk.service = service,
        souk.caller = Empty,
        request_id = Empty,
        trace_id = trace_of(&context).map(display),
    );
    RequestSpan::continuing(span, service, context)
}

/// The span of one run of a background job ("saga") of `service`. It begins a new trace.
pub fn job(service: &str, job: &str) -> RequestSpan {
    let sent = SENT.load(Ordering::Relaxed);
    let span = tracing::error_span!(
        parent: None,
        "job",
        otel.name = sent.then_some(job),
        otel.kind = sent.then_some("internal"),
        otel.status_code = Empty,
        job,
        souk.service = service,
        trace_id = Empty,
    );
    RequestSpan::continuing(span, service, Context::new())
}

/// The span of a call to another service, below the current span. Pass it to [`propagation::inject`], run the call in
/// it, then call [`record_code`].
pub fn client(rpc_service: &str, rpc_method: &str) -> Span {
    let sent = SENT.load(Ordering::Relaxed);
    tracing::info_span!(
        "call",
        otel.name = sent.then(|| format!("{rpc_service}/{rpc_method}")),
        otel.kind = sent.then_some("client"),
        otel.status_code = Empty,
        rpc.system = sent.then_some("grpc"),
        rpc.service = rpc_service,
        rpc.method = rpc_method,
        rpc.response.status_code = Empty,
    )
}

/// Records the outcome of an RPC on its span ([`RequestSpan::span`] or that of [`client`]), for the collector. As
/// OpenTelemetry's conventions require, on the server's side only the codes that are the server's fault make the span
/// an error; on the client's side, all codes but OK do.
pub fn record_code(span: &Span, code: tonic::Code, server_side: bool) {
    if !SENT.load(Ordering::Relaxed) {
        return; // The span ends with this: no log line would show it.
    }
    span.record("rpc.response.status_code", crate::error::code_name(code));
    use tonic::Code;
    let fault = match code {
        Code::Ok => false,
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        _ => !server_side,
    };
    if fault {
        span.record("otel.status_code", "ERROR");
    }
}

/// Records the outcome of an HTTP request on its span, for the collector. 5xx is an error.
pub fn record_status(span: &Span, status: http::StatusCode) {
    if !SENT.load(Ordering::Relaxed) {
        return;
    }
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

fn trace_of(context: &Context) -> Option<TraceId> {
    let trace = context.span().span_context().trace_id();
    (trace != TraceId::INVALID).then_some(trace)
}

impl RequestSpan {
    /// The span of the running code.
    #[must_use]
    pub fn current() -> Self {
        Self { span: Span::current(), context: Context::current() }
    }

    fn continuing(span: Span, service: &str, mut context: Context) -> Self {
        if SENT.load(Ordering::Relaxed) {
            let begins = trace_of(&context).is_none();
            context = context.with_value(Service(service.into()));
            if span.set_parent(context.clone()).is_ok() && begins {
                span.record("trace_id", trace_of(&span.context()).map(display));
            }
        }
        Self { span, context }
    }

    /// The span, for recording fields.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Runs a short function in the span, for example to log the outcome.
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _context = self.context.clone().attach();
        self.span.in_scope(work)
    }

    /// Runs the future in the span. Requests with [`propagation::inject`] continue the trace. A task that the future
    /// spawns does so only if it is also run with [`RequestSpan::run`].
    pub fn run<F: Future>(&self, future: F) -> InSpan<F> {
        // The span is entered inside the context, so that the span's own context, if it has one, is the current one.
        future.instrument(self.span.clone()).with_context(self.context.clone())
    }
}
