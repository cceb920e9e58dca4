//! The context of a request: its id and its deadline, which are passed on with every call to another service.
//!
//! The server's edge sets the context for the handler. The client reads it for the calls that the handler makes.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Problem, Reason};

/// The header with the request id, which all log lines and responses of a request contain.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header with the time that the caller still waits.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The context of a request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The request id, which all log lines and responses of a request contain.
    pub request_id: Arc<str>,
    /// The time when the caller stops waiting. `None`: no limit.
    pub deadline: Option<Instant>,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

impl RequestContext {
    /// Reads the context from the headers of an incoming request: its id if it has a valid one, and its deadline, at
    /// most `limit` from now. An invalid timeout is not reported here but by [`timeout`].
    pub fn from_headers(headers: &HeaderMap, limit: Duration) -> Self {
        let sent = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
        let request_id = sent.map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Into::into);
        let asked = timeout(headers).ok().flatten();
        let deadline = Some(Instant::now() + asked.map_or(limit, |asked| asked.min(limit)));
        Self { request_id, deadline }
    }

    /// A context for work that does not belong to a request, such as a job.
    pub fn background() -> Self {
        Self { request_id: uuid::Uuid::now_v7().to_string().into(), deadline: None }
    }

    /// The context of the running code, if it has one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future in this context.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The same context without a deadline, for work that continues after the caller has left.
    pub fn detached(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// How long the caller still waits, at most `limit`.
    pub fn remaining(&self, limit: Duration) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(limit, |left| left.min(limit))
    }

    /// The request id as a header value. `None`: it is not valid in a header.
    pub fn request_id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.request_id).ok()
    }
}

/// Formats a timeout for gRPC: at most 8 digits and a unit. Rounds up, so that a short timeout never becomes 0.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_micros().div_ceil(1000).clamp(1, 99_999_999);
    HeaderValue::from_str(&format!("{millis}m")).unwrap_or_else(|_| HeaderValue::from_static("1S"))
}

/// Reads the caller's timeout from `grpc-timeout`, if the header is present.
///
/// # Errors
/// `MALFORMED_REQUEST` if it is invalid. If it were ignored, the server could work for a caller that has left.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let mut values = headers.get_all(&GRPC_TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str().ok().and_then(parse_timeout) {
        Some(timeout) if values.next().is_none() => Ok(Some(timeout)),
        _ => Err(Problem::new(
            Reason::MalformedRequest,
            "the header grpc-timeout must be there once: 1 to 8 digits and a unit (H, M, S, m, u or n), such as 500m \
             for half a second",
        )),
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// True if a client's request id is safe in logs and headers.
fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_parsed() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "1", "-1S", "123456789S", "1x", "1é", "é"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
        assert_eq!(
            parse_timeout(format_timeout(Duration::from_millis(1500)).to_str().unwrap()),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(format_timeout(Duration::ZERO), "1m");
    }

    #[test]
    fn an_invalid_grpc_timeout_is_refused() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(GRPC_TIMEOUT, HeaderValue::from_static(value));
            }
            timeout(&headers).map_err(|problem| problem.reason())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["0S"]), Ok(Some(Duration::ZERO)));
        assert_eq!(read(&["1500u"]), Ok(Some(Duration::from_micros(1500))));
        for wrong in [&[""][..], &["1"], &["-1S"], &["1.5S"], &["123456789S"], &["1x"], &["soon"], &["1S", "1S"]] {
            assert_eq!(read(wrong), Err(Reason::MalformedRequest), "{wrong:?}");
        }
    }

    #[test]
    fn a_deadline_is_never_later_than_the_limit_and_an_odd_id_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("1H"));
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b"));
        let context = RequestContext::from_headers(&headers, Duration::from_secs(5));
        assert!(context.remaining(Duration::from_secs(60)) <= Duration::from_secs(5));
        assert_ne!(&*context.request_id, "a b");
        headers.insert(REQUEST_ID, HeaderValue::from_static("req-1"));
        assert_eq!(&*RequestContext::from_headers(&headers, Duration::from_secs(5)).request_id, "req-1");
    }
}
