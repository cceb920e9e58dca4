//! Carries W3C trace context (`traceparent`, `tracestate`) from hop to hop.
//!
//! One rule makes this work with and without a collector: the context to hand on is always OpenTelemetry's
//! current one. With a collector, entering a span puts that span there. Without one there are no
//! OpenTelemetry spans; then [`super::span::RequestSpan::run`] has put the caller's context there, and it is
//! handed on as it came.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The trace context a request came with; an empty one where it has none or a broken one.
pub fn extract(headers: &HeaderMap) -> Context {
    if !headers.contains_key("traceparent") {
        return Context::new();
    }
    propagator().extract_with_context(&Context::new(), &Headers(headers))
}

/// Writes the trace context of `span` into the headers of a request to be sent: the surrounding one, where
/// the span is disabled or no collector is set; nothing if there is none.
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
        // The propagator also gives an empty tracestate; a header that says nothing is left out.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
