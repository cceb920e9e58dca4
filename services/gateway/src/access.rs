//! The access log's measure: how many bytes of an answer went out, and when its last one had.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

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
