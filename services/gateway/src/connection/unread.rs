//! The unread part of a request body: discarded up to a limit, so that the connection can be reused.

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

/// The state of one request's body.
#[derive(Debug, Clone)]
pub struct Unread {
    bounds: Bounds,
    linger: Linger,
    /// The client waits to be told to send its body, and may never send it where it is not.
    waits: bool,
    too_much: Arc<AtomicBool>,
}

impl Unread {
    /// For a request with these headers.
    pub fn of(headers: &HeaderMap, bounds: Bounds, linger: Linger) -> Self {
        let waits = headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(CONTINUE));
        Self { bounds, linger, waits, too_much: Arc::default() }
    }

    /// The body, which is seen to when it is dropped before its end.
    pub fn watch(&self, body: Incoming) -> Watched {
        Watched { inner: Some(body), read: false, unread: self.clone() }
    }

    /// Whether the body was dropped with more to come than is thrown away: the connection cannot continue.
    pub fn is_too_much(&self) -> bool {
        self.too_much.load(Ordering::Acquire)
    }

    /// Reads the rest and throws it away. The answer is sent meanwhile.
    fn throw_away(&self, rest: Incoming) {
        let until = Instant::now() + self.bounds.time;
        // Until the rest has come: should it not, the connection ends, and the client may still be sending.
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

/// Whether a body ends after so many bytes at most. It is read no further.
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

/// A request's body.
pub struct Watched {
    /// Until its end.
    inner: Option<Incoming>,
    /// Whether any of it was asked for.
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
                // Broken: what comes after it cannot be told apart from it, and hyper closes.
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
            // Once it was asked for, hyper has told the client to send it.
            self.unread.waits &= !self.read;
            self.unread.throw_away(rest);
        }
    }
}
