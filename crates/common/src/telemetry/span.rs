//! The spans that requests, calls and jobs run in: their names and attributes, in one place.

use std::future::Future;
use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::trace::TraceContextExt;
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::propagation;

/// The span attribute that names the service whose work a span is.
pub const SERVICE: &str = "souk.service";

/// Which service the work belongs to. It travels in the context, so every span below inherits it: in
/// `souk up` four services share a process and so cannot be told apart by the process's resource.
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

/// The span of an RPC that `service` ("order") serves; `rpc_service` is the full name
/// (`souk.order.v1.OrderService`). Continues the trace that the request's headers name; `request_id` is
/// recorded by whoever knows it.
pub fn server(service: &str, rpc_service: &str, rpc_method: &str, headers: &HeaderMap) -> RequestSpan {
    let span = tracing::info_span!(
        "rpc",
        otel.name = %format_args!("{rpc_service}/{rpc_method}"),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = rpc_service,
        rpc.method = rpc_method,
        rpc.response.status_code = Empty,
        souk.service = service,
        request_id = Empty,
        trace_id = Empty,
    );
    RequestSpan::continuing(span, service, propagation::extract(headers))
}

/// The span of an HTTP request that `service` ("gateway") serves; `route` is the template, such as
/// `/v1/orders/{order}`, never the path itself.
pub fn http_server(
    service: &str,
    method: &http::Method,
    route: &str,
    headers: &HeaderMap,
) -> RequestSpan {
    let span = tracing::info_span!(
        "http",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
        souk.service = service,
        request_id = Empty,
        trace_id = Empty,
    );
    RequestSpan::continuing(span, service, propagation::extract(headers))
}

/// The span of one run of a background job ("order.saga") of `service`: a trace of its own.
pub fn job(service: &str, job: &str) -> RequestSpan {
    let span = tracing::info_span!(
        parent: None,
        "job",
        otel.name = job,
        otel.kind = "internal",
        otel.status_code = Empty,
        job,
        souk.service = service,
        trace_id = Empty,
    );
    RequestSpan::continuing(span, service, Context::new())
}

/// The span of a call to another service, below the current span. Give it to [`propagation::inject`], run
/// the call in it, then [`record_code`].
pub fn client(rpc_service: &str, rpc_method: &str) -> Span {
    tracing::info_span!(
        "call",
        otel.name = %format_args!("{rpc_service}/{rpc_method}"),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = rpc_service,
        rpc.method = rpc_method,
        rpc.response.status_code = Empty,
    )
}

/// Notes the outcome of an RPC on its span: [`RequestSpan::span`] or a [`client`]'s. On the server's side only the codes that are the server's fault
/// make the span an error, on the client's every one but OK, as OpenTelemetry's conventions have it.
pub fn record_code(span: &Span, code: tonic::Code, server_side: bool) {
    span.record("rpc.response.status_code", super::metrics::code_name(code));
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

/// Notes the outcome of an HTTP request on its span; 5xx is an error.
pub fn record_status(span: &Span, status: http::StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

impl RequestSpan {
    fn continuing(span: Span, service: &str, parent: Context) -> Self {
        let context = parent.with_value(Service(service.into()));
        if !span.is_disabled() {
            // Without the OpenTelemetry layer this fails, and the caller's context is all there is to know.
            let layered = span.set_parent(context.clone()).is_ok();
            let own = if layered { span.context() } else { context.clone() };
            let trace = own.span().span_context().trace_id();
            if trace != opentelemetry::TraceId::INVALID {
                span.record("trace_id", tracing::field::display(trace));
            }
        }
        Self { span, context }
    }

    /// The span, to record on.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Does something short in the span, such as logging the outcome.
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _context = self.context.clone().attach();
        self.span.in_scope(work)
    }

    /// Runs the future in the span. Whatever it sends with [`propagation::inject`] continues the trace.
    /// A task it spawns does so only when run in [`RequestSpan::run`] too.
    pub fn run<F: Future>(&self, future: F) -> InSpan<F> {
        // The span is entered inside the context, so its own context, where it has one, is the current one.
        future.instrument(self.span.clone()).with_context(self.context.clone())
    }
}

/// Runs a future, to be spawned as a task of its own, in the span and trace context of the caller.
pub fn inherit<F: Future>(future: F) -> InSpan<F> {
    future.in_current_span().with_current_context()
}
