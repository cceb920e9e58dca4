//! Closes a connection in stages: first this side, then the client's side when it has stopped sending.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Bounds, Linger,
    refusal::{self, Refusal},
};

/// Size of a read whose bytes are discarded.
const PIECE: usize = 8 * 1024;

/// A connection to a client, below HTTP, that closes in stages.
pub struct Staged<S> {
    stream: S,
    linger: Linger,
    bounds: Bounds,
    /// The response that replaces hyper's own refusal.
    refusal: Option<Refusal>,
    /// True if this side is closed.
    closed: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Staged<S> {
    /// Wraps a stream. Its shutdown completes at once, unless `linger` sets a time to wait for the client.
    pub fn new(stream: S, linger: Linger, bounds: Bounds) -> Self {
        Self { stream, linger, bounds, refusal: None, closed: false, deadline: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Staged<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Staged<S> {
    /// Replaces a refusal by hyper with one that has a body. `Ready` when all of it was sent. `None` if these bytes are
    /// not such a refusal.
    fn poll_refuse(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.refusal.is_none() {
            let refusal = refusal::of(bytes)?;
            // The refused request may still be arriving.
            self.linger.set(Instant::now() + self.bounds.time);
            self.refusal = Some(refusal);
        }
        let refusal = self.refusal.as_mut()?;
        while !refusal.rest().is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, refusal.rest()) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Ok(0))),
                Poll::Ready(Ok(sent)) => refusal.advance(sent),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        self.refusal = None;
        Some(Poll::Ready(Ok(bytes.len())))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Staged<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_refuse(context, bytes) {
            Some(refused) => refused,
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.closed {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.closed = true;
        }
        let Some(until) = this.linger.until() else { return Poll::Ready(Ok(())) };
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        let mut piece = [0; PIECE];
        loop {
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has closed its side or is gone.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && let Some(refused) = self.poll_refuse(context, only)
        {
            return refused;
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
