//! Ends a stream when the session ends in whose name it was opened.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::auth::has_ended;

/// The stream, until `ended`: then it fails with `UNAUTHENTICATED`.
pub(super) fn cut(inner: Body, ended: impl Future<Output = ()> + Send + 'static) -> Body {
    if inner.is_end_stream() {
        // It failed before it began: what it has to say stands in its headers.
        return inner;
    }
    Body::new(Cut { inner: Some(inner), ended: Box::pin(ended) })
}

struct Cut {
    /// None once it was cut.
    inner: Option<Body>,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // First, since a stream may have something to tell all the time. Frames are whole messages.
        if this.ended.as_mut().poll(context).is_ready() {
            this.inner = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers()))));
        }
        Pin::new(inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers() -> HeaderMap {
    let mut trailers = Status::from(has_ended()).into_http::<Body>().into_parts().0.headers;
    trailers.remove(CONTENT_TYPE);
    trailers
}
