//! Announces that a server is about to stop, before the drain begins.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::error::{Problem, Reason};

/// Shared by a server and its owner. A stop has two steps. First the owner announces it: the server reports that it is
/// not ready but still serves, so that load balancers notice. Then the owner cancels the shutdown token, and the drain
/// begins. Without an announcement, the shutdown token does both.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    announced: CancellationToken,
    drained_by: Mutex<Option<Instant>>,
}

impl Stop {
    /// Announces that the server is about to stop: from now on it reports that it is not ready.
    pub fn announce(&self) {
        self.0.announced.cancel();
    }

    /// Cancelled once the server is about to stop.
    pub fn announced(&self) -> &CancellationToken {
        &self.0.announced
    }

    /// Sets the time by which the drain must be over, even if `server.drain` would allow more.
    pub fn drained_by(&self, moment: Instant) {
        *self.0.drained_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(moment);
    }

    /// The duration of a drain that begins now: `drain`, or less if [`Self::drained_by`] set an earlier end.
    pub fn drain(&self, drain: Duration) -> Duration {
        let by = *self.0.drained_by.lock().unwrap_or_else(PoisonError::into_inner);
        by.map_or(drain, |by| drain.min(by.saturating_duration_since(Instant::now())))
    }
}

/// Ends the stream of a response when the server drains. Streams of health and reflection would otherwise delay the
/// stop until the end of the drain time. Frames that are already ready are still sent. The stream's place is released
/// when it has ended.
pub(super) fn bound(
    response: Response<Body>,
    draining: &CancellationToken,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let end = Box::pin(draining.clone().cancelled_owned());
    response.map(|inner| Body::new(Bounded { inner, end: Some(end), _place: place }))
}

struct Bounded {
    inner: Body,
    /// `None`: the stream has ended.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        if let ready @ Poll::Ready(_) = Pin::new(&mut this.inner).poll_frame(context) {
            return ready;
        }
        if end.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.end = None;
        this.inner = Body::empty();
        let problem = Problem::new(Reason::ServiceUnavailable, "the service is stopping: call again")
            .retry_after(Duration::from_secs(1));
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(Status::from(problem).add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_at_its_deadline() {
        let (stop, long) = (Stop::default(), Duration::from_secs(20));
        assert_eq!(stop.drain(long), long);
        stop.drained_by(Instant::now() + Duration::from_secs(5));
        assert!(stop.drain(long) <= Duration::from_secs(5) && stop.drain(long) > Duration::from_secs(1));
        assert_eq!(stop.drain(Duration::from_secs(1)), Duration::from_secs(1), "it never makes a drain longer");
        stop.drained_by(Instant::now());
        assert_eq!(stop.clone().drain(long), Duration::ZERO);
    }
}
