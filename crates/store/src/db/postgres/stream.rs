//! A connection to PostgreSQL as the driver sees it. While the server lets us in, its messages are looked at one by one:
//! the driver answers whatever it is asked, and a password must not go over a connection that everyone can read. Behind
//! a pooler they are looked at for as long as the connection lives ([`Pooled`]).

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, TlsStream},
};
use tokio_util::io::poll_read_buf;

use super::{
    connect::Insecure,
    pooled::{Limits, Pooled},
};

/// The longest message of a server that has not let us in yet.
const LONGEST_GREETING: usize = 64 * 1024;
/// Tag and length.
const HEAD: usize = 5;

/// What carries the bytes.
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<tokio_rustls::client::TlsStream<Socket>>),
}

/// Sends to whichever it is.
macro_rules! carried {
    ($transport:expr, $carrier:ident => $result:expr) => {
        match $transport {
            Transport::Plain($carrier) => {
                let $carrier = Pin::new($carrier);
                $result
            }
            Transport::Tls($carrier) => {
                let $carrier = Pin::new(&mut **$carrier);
                $result
            }
        }
    };
}

/// A connection.
pub(super) struct Stream {
    transport: Transport,
    binding: Option<Vec<u8>>,
    /// Until when the server must have let us in; `None` once it has.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Messages of the server that are not whole yet.
    incoming: BytesMut,
    /// What the driver has not read yet.
    passed: BytesMut,
    ended: bool,
    pooled: Option<Pooled>,
    /// What is to be sent, behind a pooler.
    outgoing: BytesMut,
}

impl Stream {
    pub(super) fn new(
        transport: Transport,
        binding: Option<Vec<u8>>,
        deadline: Instant,
        limits: Option<Limits>,
    ) -> Self {
        Self {
            transport,
            binding,
            deadline: Some(Box::pin(tokio::time::sleep_until(deadline))),
            incoming: BytesMut::new(),
            passed: BytesMut::new(),
            ended: false,
            pooled: limits.map(Pooled::new),
            outgoing: BytesMut::new(),
        }
    }

    /// Passes on what is whole.
    fn sort(&mut self) -> io::Result<()> {
        while self.deadline.is_some() || self.pooled.is_some() {
            let Some(head) = self.incoming.first_chunk::<HEAD>() else { return Ok(()) };
            let [tag, length @ ..] = *head;
            // The length counts itself.
            let length = u32::from_be_bytes(length) as usize;
            if length < 4 || self.deadline.is_some() && length > LONGEST_GREETING {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Insecure::NotPostgres));
            }
            let whole = 1 + length;
            if self.incoming.len() < whole {
                self.incoming.reserve(whole - self.incoming.len());
                return Ok(());
            }
            let message = self.incoming.split_to(whole);
            if self.deadline.is_some() && tag == b'R' {
                match message.get(HEAD..HEAD + 4) {
                    // AuthenticationOk
                    Some([0, 0, 0, 0]) => self.deadline = None,
                    // AuthenticationCleartextPassword
                    Some([0, 0, 0, 3]) if matches!(self.transport, Transport::Plain(_)) => {
                        return Err(io::Error::new(io::ErrorKind::PermissionDenied, Insecure::ClearText));
                    }
                    _ => {}
                }
            }
            let pass = match &mut self.pooled {
                Some(pooled) => pooled.answer(tag, &message[HEAD..])?,
                None => true,
            };
            if pass {
                self.passed.unsplit(message);
            }
        }
        self.passed.unsplit(self.incoming.split());
        Ok(())
    }

    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(carried!(&mut self.transport, carrier => carrier.poll_write(context, &self.outgoing)))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                let length = this.passed.len().min(into.remaining());
                into.put_slice(&this.passed.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let Some(deadline) = &mut this.deadline else {
                if this.pooled.is_none() {
                    return carried!(&mut this.transport, carrier => carrier.poll_read(context, into));
                }
                ready!(this.receive(context))?;
                continue;
            };
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            ready!(this.receive(context))?;
        }
    }
}

impl Stream {
    fn receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let incoming = &mut self.incoming;
        let read = ready!(carried!(&mut self.transport, carrier => poll_read_buf(carrier, context, incoming)))?;
        if read == 0 {
            self.ended = true;
            self.passed.unsplit(self.incoming.split());
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.sort())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.pooled.is_none() {
            return carried!(&mut this.transport, carrier => carrier.poll_write(context, bytes));
        }
        ready!(this.send(context))?;
        if let Some(pooled) = &mut this.pooled {
            pooled.requests(bytes, &mut this.outgoing)?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send(context))?;
        carried!(&mut this.transport, carrier => carrier.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send(context))?;
        carried!(&mut this.transport, carrier => carrier.poll_shutdown(context))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.binding {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}
