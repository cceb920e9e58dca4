//! The record of a request. A request gets its id, deadline and span at the start. It is measured and logged once, when
//! the last byte of its response was sent.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Method as HttpMethod, Request, Response};
use http_body::{Frame, SizeHint};
use souk_common::{
    context::{REQUEST_ID, RequestContext},
    error::{Problem, Reason, chain},
    telemetry,
};
use tonic::{Code, Status, body::Body};

use super::{classify, layer::NextInfallible};
use crate::{
    gateway::Gateway,
    record::{End, Record},
    target::Target,
};

/// The target of access log lines.
const ACCESS: &str = "access";

/// Samples frequent refusals for the log.
static REFUSALS: telemetry::Sampled = telemetry::Sampled::new();

/// Gives a request its id, deadline and span. Measures and logs it when its response was sent.
pub async fn observe(
    gateway: &Gateway,
    request: Request<Body>,
    next: &NextInfallible,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let (mut request, target) = gateway.classify(request);
    let config = &gateway.config;
    let context = RequestContext::from_headers(request.headers(), classify::deadline(&target, config));
    let is_head = request.method() == HttpMethod::HEAD;
    let method = target.measured(request.method());
    let span = telemetry::span::http_server("gateway", &method, target.label(), request.headers());
    span.span().record("request_id", &*context.request_id);
    let record = Record::default();
    let done = Done {
        method,
        target,
        started,
        span: span.clone(),
        record: record.clone(),
        access_log: config.settings.access_log,
        _in_flight: telemetry::metrics::http_in_flight(),
    };
    request.extensions_mut().insert(context.clone());
    request.extensions_mut().insert(record.clone());
    let Ok(mut response) = span.run(next.run(request)).await;
    record.begun(response.status());
    if let Some(id) = context.request_id_header() {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if is_head {
        *response.body_mut() = Body::empty();
    }
    Ok(response.map(|inner| Body::new(Counted { inner, done })))
}

/// A request that is measured and logged once: when its response was sent or its client has left.
struct Done {
    method: HttpMethod,
    target: Arc<Target>,
    started: Instant,
    span: telemetry::span::RequestSpan,
    record: Record,
    /// True if every request is logged at level info, whatever its outcome.
    access_log: bool,
    _in_flight: telemetry::metrics::InFlight,
}

impl Drop for Done {
    fn drop(&mut self) {
        let End { status, code, problem } = self.record.take();
        let (elapsed, route) = (self.started.elapsed(), self.target.label());
        telemetry::metrics::http_server(&self.method, route, status, elapsed);
        telemetry::span::record_status(self.span.span(), status);
        let refused = problem.as_ref().map(Problem::reason);
        let comes_often = matches!(refused, Some(Reason::RateLimited | Reason::Overloaded))
            || (refused.is_none() && code == Some(Code::ResourceExhausted));
        let reason = problem.as_ref().map(Problem::reason_name);
        let cause = problem.as_ref().and_then(std::error::Error::source).map(chain);
        let (method, status, bytes) = (&self.method, status.as_u16(), self.record.bytes());
        // The only place where the gateway logs a request. The service logs its own failures under the same request id.
        self.span.in_scope(|| match status {
            _ if comes_often => {
                let name = reason.unwrap_or("RESOURCE_EXHAUSTED");
                if let Some(refused) = REFUSALS.count(name) {
                    tracing::warn!(target: ACCESS, refused, reason = name, %method, route, status, "requests refused");
                }
                tracing::debug!(target: ACCESS, %method, route, status, ?code, reason, cause, ?elapsed, bytes, "request done");
            }
            500 => {
                tracing::error!(target: ACCESS, %method, route, status, ?code, reason, cause, ?elapsed, bytes, "request failed");
            }
            502.. => {
                tracing::warn!(target: ACCESS, %method, route, status, ?code, reason, cause, ?elapsed, bytes, "request refused");
            }
            _ if self.access_log => {
                tracing::info!(target: ACCESS, %method, route, status, ?code, reason, cause, ?elapsed, bytes, "request done");
            }
            _ => {
                tracing::debug!(target: ACCESS, %method, route, status, ?code, reason, cause, ?elapsed, bytes, "request done");
            }
        });
    }
}

/// Counts the bytes of a body, without headers and trailers.
struct Counted {
    inner: Body,
    /// Dropped with the body, when the response was sent or aborted. The request is logged then.
    done: Done,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.done.record.sent(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Mutex};

    use super::*;
    use crate::target::{Protocol, To};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn ten_thousand_refusals_log_only_a_few_lines() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let began = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..10_000 {
                let reason = if number % 2 == 0 { Reason::RateLimited } else { Reason::Overloaded };
                let record = Record::default();
                record.set(End::refused(Problem::new(reason, "")));
                drop(Done {
                    method: HttpMethod::GET,
                    target: Arc::new(Target { protocol: Protocol::Rest, to: To::Own }),
                    started: Instant::now(),
                    span: telemetry::span::RequestSpan::current(),
                    record,
                    access_log: true,
                    _in_flight: telemetry::metrics::http_in_flight(),
                });
            }
        });
        let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        for name in ["RATE_LIMITED", "OVERLOADED"] {
            let count = lines.lines().filter(|line| line.contains(name)).count() as u64;
            assert!((1..=1 + began.elapsed().as_secs()).contains(&count), "{lines}");
        }
        assert_eq!(lines.lines().count(), lines.matches("requests refused").count(), "{lines}");
    }
}
