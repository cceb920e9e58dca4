//! Ends a stream when the token is worth nothing any more with which it was opened: it has expired, or its session ended.

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

/// The stream, until `over` says why it fails. Its place among the open streams is free as soon as it has ended.
pub(super) fn cut(
    inner: Body,
    over: impl Future<Output = Problem> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> Body {
    if inner.is_end_stream() {
        // It failed before it began: what it has to say is in its headers.
        return inner;
    }
    Body::new(Cut { open: Some((inner, place)), over: Box::pin(over) })
}

struct Cut {
    /// None once it was cut.
    open: Option<(Body, OwnedSemaphorePermit)>,
    over: Pin<Box<dyn Future<Output = Problem> + Send>>,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some((inner, _)) = &mut this.open else { return Poll::Ready(None) };
        // First, since a stream may have something to tell all the time. Frames are whole messages.
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
