//! A connection to PostgreSQL as the driver sees it. Until the server has authenticated the client, each of its
//! messages is inspected, because the driver answers every request and a password must not be sent in clear text. With
//! a pooler, messages are inspected for the whole life of the connection ([`Pooled`]).

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

/// The longest message of a server before authentication has ended, in bytes.
const LONGEST_GREETING: usize = 64 * 1024;
/// The length of a message's tag and length, in bytes.
const HEAD: usize = 5;

/// The transport of the bytes.
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<tokio_rustls::client::TlsStream<Socket>>),
}

/// Calls a method of either transport.
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

/// A connection to the server, as the driver reads and writes it.
pub(super) struct Stream {
    transport: Transport,
    binding: Option<Vec<u8>>,
    /// The deadline of authentication; `None` once it has succeeded.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Messages of the server that have not arrived completely.
    incoming: BytesMut,
    /// Messages that the driver has not read yet.
    passed: BytesMut,
    ended: bool,
    pooled: Option<Pooled>,
    /// Bytes to be sent, if there is a pooler.
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

    /// Passes complete messages on.
    fn sort(&mut self) -> io::Result<()> {
        while self.deadline.is_some() || self.pooled.is_some() {
            let Some(head) = self.incoming.first_chunk::<HEAD>() else { return Ok(()) };
            let [tag, length @ ..] = *head;
            // The length includes itself.
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
