//! The unread part of a request body. It is discarded up to a limit, so that the connection can be reused.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::Instant};

use super::{Bounds, Linger};

/// Tracks one request's body, so that its unread part is discarded.
#[derive(Debug, Clone)]
pub struct Unread {
    bounds: Bounds,
    linger: Linger,
    /// True if the client waits for `100 Continue` before it sends the body. Without it, the body may never arrive.
    waits: bool,
    too_much: Arc<AtomicBool>,
}

impl Unread {
    /// The state for a request with these headers.
    pub fn of(headers: &HeaderMap, bounds: Bounds, linger: Linger) -> Self {
        let waits = headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(CONTINUE));
        Self { bounds, linger, waits, too_much: Arc::default() }
    }

    /// Wraps a body. If it is dropped before its end, the rest is discarded.
    pub fn watch(&self, body: Incoming) -> Watched {
        Watched { inner: Some(body), read: false, unread: self.clone() }
    }

    /// True if a body was dropped and its rest is too large to discard. The connection must then be closed.
    pub fn is_too_much(&self) -> bool {
        self.too_much.load(Ordering::Acquire)
    }

    /// Reads the rest and discards it, while the response is being sent.
    fn throw_away(&self, rest: Incoming) {
        let until = Instant::now() + self.bounds.time;
        // Set until the rest has arrived. If it does not arrive, the connection closes while the client may still be
        // sending.
        self.linger.set(until);
        let too_much = rest.size_hint().lower() > self.bounds.bytes || self.waits;
        let runtime = Handle::try_current().ok().filter(|_| !too_much);
        let Some(runtime) = runtime else {
            self.too_much.store(true, Ordering::Release);
            return;
        };
        let (linger, most) = (self.linger.clone(), self.bounds.bytes);
        runtime.spawn(async move {
            let all = tokio::time::timeout_at(until, is_all_within(rest, most));
            if let Ok(true) = all.await {
                linger.take_back(until);
            }
        });
    }
}

const CONTINUE: &[u8] = b"100-continue";

/// Reads a body of at most `most` bytes. Returns false if the body is larger or breaks off.
async fn is_all_within(mut body: Incoming, most: u64) -> bool {
    let mut seen: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        seen = seen.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        if seen > most {
            return false;
        }
    }
    true
}

/// A request body whose unread part is discarded when it is dropped.
pub struct Watched {
    /// The body. `None` after its end.
    inner: Option<Incoming>,
    /// True if any part of the body was read.
    read: bool,
    unread: Unread,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.read = true;
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.inner = None,
            Poll::Ready(Some(Err(_))) => {
                // The body is broken, so the next request cannot be found in the stream. hyper closes the connection.
                self.inner = None;
                self.unread.linger.set(Instant::now() + self.unread.bounds.time);
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(rest) = self.inner.take().filter(|rest| !rest.is_end_stream()) {
            // As soon as the body is read, hyper sends `100 Continue`.
            self.unread.waits &= !self.read;
            self.unread.throw_away(rest);
        }
    }
}
