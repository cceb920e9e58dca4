//! A client's socket, below HTTP: its first bytes must come soon, and it must take what is sent to it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::Connection;

/// A socket of a connection. Until the first bytes have told HTTP/1.1 from HTTP/2, no timeout of either runs, and a
/// client that sends nothing would hold its place for ever.
pub struct Socket<S> {
    stream: S,
    /// Bytes still to come, and until when.
    waiting: Option<(usize, Pin<Box<Sleep>>)>,
    /// While nothing is read: see [`Connection::pause`].
    pause: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

/// Length of HTTP/2's preface: with it, the protocol is known.
const PREFACE: usize = 24;

impl<S> Socket<S> {
    /// The first bytes must come within `limit`.
    pub fn new(stream: S, limit: Duration, connection: Arc<Connection>) -> Self {
        let waiting = Some((PREFACE, Box::pin(tokio::time::sleep(limit))));
        Self { stream, waiting, pause: None, connection }
    }

    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.connection.set_write_blocked(polled.is_pending());
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pause.is_none()
            && let Some(time) = self.connection.pause()
        {
            self.pause = Some(Box::pin(tokio::time::sleep(time)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        if let Some((missing, deadline)) = &mut self.waiting {
            match polled {
                Poll::Ready(_) if read >= *missing => self.waiting = None,
                Poll::Ready(_) => *missing -= read,
                Poll::Pending if deadline.as_mut().poll(context).is_ready() => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent no request")));
                }
                Poll::Pending => {}
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
