//! Ends a stream when the token that opened it is no longer valid: the token has expired, or its session has ended.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, body::Body};

use crate::error::Problem;

/// Returns the stream, which fails with the problem of `over` as soon as that future completes. Its place among the
/// open streams is released when the stream ends.
pub(super) fn cut(
    inner: Body,
    over: impl Future<Output = Problem> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> Body {
    if inner.is_end_stream() {
        // The call failed before the stream began: its status is already in the headers.
        return inner;
    }
    Body::new(Cut { open: Some((inner, place)), over: Box::pin(over) })
}

struct Cut {
    /// `None` after the stream was cut.
    open: Option<(Body, OwnedSemaphorePermit)>,
    over: Pin<Box<dyn Future<Output = Problem> + Send>>,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some((inner, _)) = &mut this.open else { return Poll::Ready(None) };
        // Polled before the stream, because a stream may always have a frame that is ready. Each frame is a whole
        // message.
        if let Poll::Ready(problem) = this.over.as_mut().poll(context) {
            this.open = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(problem)))));
        }
        Pin::new(inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.open.as_ref().is_none_or(|(inner, _)| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers(problem: Problem) -> HeaderMap {
    let mut trailers = Status::from(problem).into_http::<Body>().into_parts().0.headers;
    trailers.remove(CONTENT_TYPE);
    trailers
}
