//! What is kept of a request: it is measured and logged once, when the last byte of its answer has gone out.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Method as HttpMethod, StatusCode};
use http_body::{Frame, SizeHint};
use souk_common::{
    error::{Problem, Reason, chain},
    telemetry,
};
use tonic::{Code, Status, body::Body};

/// The target of the lines that say how a request went.
const ACCESS: &str = "access";

/// Refusals that come by the thousand, for the log.
static REFUSALS: telemetry::Sampled = telemetry::Sampled::new();

/// A request, to be measured and logged once: when its answer has been sent, or whoever asked has left.
pub struct Done {
    /// The HTTP method, as it stands in metrics.
    pub method: HttpMethod,
    /// The route's template.
    pub label: String,
    /// When it came.
    pub started: Instant,
    /// Its span.
    pub span: telemetry::span::RequestSpan,
    /// Why it was refused, where it was.
    pub problem: Option<Problem>,
    /// Until it is settled.
    pub in_flight: Option<telemetry::metrics::InFlight>,
    /// Bytes of its answer.
    pub sent: Sent,
    /// Whether it is logged at level info, however it went.
    pub access_log: bool,
}

impl Done {
    /// Its answer had this status; over gRPC, the call this code.
    pub fn settle(mut self, status: StatusCode, code: Option<Code>) {
        self.finish(status, code);
    }

    /// Of an answer whose status was sent before all that it tells was known. One that the gateway itself ended, at its
    /// limit or as it stops, keeps the status that its client has got: nothing failed.
    pub fn settle_with(mut self, (problem, ended_here): (Option<Problem>, bool)) {
        let failed = problem.as_ref().filter(|_| !ended_here);
        let status = failed.and_then(|problem| StatusCode::from_u16(problem.http_status()).ok());
        self.problem = problem;
        self.finish(status.unwrap_or(StatusCode::OK), None);
    }

    fn finish(&mut self, status: StatusCode, code: Option<Code>) {
        let Some(in_flight) = self.in_flight.take() else { return };
        drop(in_flight);
        let elapsed = self.started.elapsed();
        telemetry::metrics::http_server(&self.method, &self.label, status, elapsed);
        telemetry::span::record_status(self.span.span(), status);
        let refused = self.problem.as_ref().map(Problem::reason);
        let comes_often = matches!(refused, Some(Reason::RateLimited | Reason::Overloaded))
            || (refused.is_none() && code == Some(Code::ResourceExhausted));
        let reason = self.problem.as_ref().map(Problem::reason_name);
        let cause = self.problem.as_ref().and_then(std::error::Error::source).map(chain);
        let (method, route, status, bytes) = (&self.method, &*self.label, status.as_u16(), self.sent.bytes());
        // The one place where the gateway logs a request. A fault of a service is in that service's log, by the
        // same request id.
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

impl Drop for Done {
    fn drop(&mut self) {
        let left = Problem::new(Reason::Cancelled, "").http_status();
        self.finish(StatusCode::from_u16(left).unwrap_or_default(), None);
    }
}

/// Bytes of a body that were sent, headers and trailers not counted.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<AtomicU64>);

impl Sent {
    /// How many there were up to now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A body that is counted, and that calls `done` when it is gone: sent, or given up.
    pub fn count(&self, inner: Body, done: impl FnOnce() + Send + Unpin + 'static) -> Body {
        Body::new(Counted { inner, sent: self.clone(), done: Some(done) })
    }
}

struct Counted<D: FnOnce()> {
    inner: Body,
    sent: Sent,
    done: Option<D>,
}

impl<D: FnOnce() + Unpin> http_body::Body for Counted<D> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.sent.0.fetch_add(data.len() as u64, Ordering::Relaxed);
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

impl<D: FnOnce()> Drop for Counted<D> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Mutex};

    use super::*;

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
    fn ten_thousand_refusals_are_a_handful_of_lines() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let began = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..10_000 {
                let reason = if number % 2 == 0 { Reason::RateLimited } else { Reason::Overloaded };
                let problem = Problem::new(reason, "");
                let status = StatusCode::from_u16(problem.http_status()).unwrap();
                let done = Done {
                    method: HttpMethod::GET,
                    label: "/v1/products".to_owned(),
                    started: Instant::now(),
                    span: telemetry::span::RequestSpan::current(),
                    problem: Some(problem),
                    in_flight: Some(telemetry::metrics::http_in_flight()),
                    sent: Sent::default(),
                    access_log: true,
                };
                done.settle(status, None);
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
