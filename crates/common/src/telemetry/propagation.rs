//! Passes W3C trace context (`traceparent`, `tracestate`) from service to service.
//!
//! One rule makes this work with and without a collector: the context that is passed on is always OpenTelemetry's
//! current context. With a collector, entering a span makes its context the current one. Without a collector there are
//! no OpenTelemetry spans: then [`super::span::RequestSpan::run`] makes the caller's context the current one, and it is
//! passed on unchanged.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The trace context of a request. Empty if the request has none or an invalid one.
pub fn extract(headers: &HeaderMap) -> Context {
    if !headers.contains_key("traceparent") {
        return Context::new();
    }
    propagator().extract_with_context(&Context::new(), &Headers(headers))
}

/// Writes the trace context of `span` into the headers of an outgoing request. If the span is disabled or there is no
/// collector, writes the surrounding context. Writes nothing if there is no context.
pub fn inject(span: &tracing::Span, headers: &mut HeaderMap) {
    span.in_scope(|| propagator().inject_context(&Context::current(), &mut HeadersMut(headers)));
}

fn propagator() -> &'static TraceContextPropagator {
    static PROPAGATOR: OnceLock<TraceContextPropagator> = OnceLock::new();
    PROPAGATOR.get_or_init(TraceContextPropagator::new)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // The propagator also sets an empty tracestate header, which is useless. It is left out.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
