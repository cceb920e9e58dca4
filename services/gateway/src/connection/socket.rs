//! A client's socket, below HTTP. Its first bytes must arrive in time, and the client must accept what is sent to it.

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

/// The socket of a connection. It limits the time for the first bytes. hyper starts no timeout before these have shown
/// if the protocol is HTTP/1.1 or HTTP/2, so a silent client would hold its place forever.
pub struct Socket<S> {
    stream: S,
    /// Number of first bytes that are still missing, and the timer that limits the wait.
    waiting: Option<(usize, Pin<Box<Sleep>>)>,
    /// The timer of a pause in reading: see [`Connection::pause`].
    pause: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

/// Length of the HTTP/2 preface. The protocol is known after that many bytes.
const PREFACE: usize = 24;

impl<S> Socket<S> {
    /// Wraps a socket whose first bytes must arrive within `limit`.
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
