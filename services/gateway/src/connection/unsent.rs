//! The unsent part of a response. It is counted, passed to hyper in small pieces, and dropped if the client does not
//! read.
//!
//! hyper takes a whole frame of a body and asks for the next one only when the client has accepted some of it. A body
//! of one large frame would therefore stay in memory for as long as the client wants. So hyper gets small pieces here,
//! and each piece counts until its last byte was sent. The task that watches all connections can drop the rest while
//! hyper waits.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use souk_common::error::Problem;
use tonic::body::Body;

use super::open::{Connection, REQUEST_BYTES, unread};
use souk_common::quota::Held;

/// Maximum size of a piece, in bytes. This is the size of an HTTP/2 frame.
const PIECE: usize = 16 * 1024;
/// A connection with at least this number of unsent responses has many.
pub const MANY: usize = 8;
/// Part of [`REQUEST_BYTES`] that covers a request apart from its response body, in bytes.
const HEAD_BYTES: u64 = REQUEST_BYTES / 2;

/// A request from its arrival until its response is sent.
pub struct Ticket {
    connection: Arc<Connection>,
    id: u64,
    /// The counted bytes. `None` for a refused request.
    held: Option<Held>,
    over: bool,
}

impl Ticket {
    pub(super) fn new(connection: Arc<Connection>, id: u64) -> Self {
        Self { connection, id, held: None, over: false }
    }

    pub(super) fn with(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// True if the connection has many unsent responses.
    pub fn has_many_beside(&self) -> bool {
        self.connection.sending().len() >= MANY
    }

    /// Sets the number of unsent bytes of the response. Returns false if that exceeds a limit.
    fn count(&mut self, bytes: u64) -> bool {
        let Some(held) = &mut self.held else { return true };
        let (before, now) = (held.amount(), bytes.saturating_add(HEAD_BYTES).max(REQUEST_BYTES));
        if now <= before {
            held.shrink(before - now);
            self.connection.unsent.fetch_sub(before - now, Ordering::Relaxed);
            return true;
        }
        if !self.connection.grow_unsent(now - before) {
            return false;
        }
        let grown = held.grow(now - before);
        if !grown {
            self.connection.unsent.fetch_sub(now - before, Ordering::Relaxed);
        }
        grown
    }

    /// Marks the request as finished. Part of its response may not be sent yet.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.connection.end();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            self.connection.unsent.fetch_sub(held.amount(), Ordering::Relaxed);
        }
        self.connection.sending().remove(&self.id);
        self.end();
    }
}

/// A response that is being sent.
pub struct Sending(Mutex<State>);

struct State {
    ticket: Ticket,
    /// The unsent content. `None` if the response was dropped or failed.
    content: Option<Content>,
    given_up: bool,
    /// Size of the part of the body that is announced but not received yet, in bytes.
    announced: u64,
    /// Size of the body's last frame, in bytes. Zero if all of it was passed on in pieces.
    frame: u64,
    /// Size of the pieces that hyper holds, in bytes.
    out: u64,
    /// When sending stalled: since then there were bytes to send, and none was sent.
    blocked_since: Option<Instant>,
    /// Wakes the task that waits for the body's next frame.
    waiting: Option<Waker>,
}

struct Content {
    body: Body,
    /// The part of the last frame that was not passed on in a piece yet.
    rest: Bytes,
    _guard: Box<dyn Send>,
}

/// Wraps a response so that its body is counted and can be dropped. The guard is dropped when the whole response was
/// sent or dropped. This can happen inside hyper, so its drop must be quick and must not use the connection.
///
/// # Errors
/// `OVERLOADED` if the client already has too many unread responses.
pub fn hold(
    response: Response<Body>,
    ticket: Ticket,
    guard: impl Send + 'static,
) -> Result<Response<Unsent>, (Problem, Ticket)> {
    let (head, body) = response.into_parts();
    if body.is_end_stream() {
        return Ok(Response::from_parts(head, Unsent(None)));
    }
    let announced = body.size_hint().exact().unwrap_or(0);
    let mut state = State {
        ticket,
        content: Some(Content { body, rest: Bytes::new(), _guard: Box::new(guard) }),
        given_up: false,
        announced,
        frame: 0,
        out: 0,
        blocked_since: (announced > 0).then(Instant::now),
        waiting: None,
    };
    if !state.count() {
        return Err((unread(), state.ticket));
    }
    let (connection, id) = (state.ticket.connection.clone(), state.ticket.id);
    let sending = Arc::new(Sending(Mutex::new(state)));
    connection.sending().insert(id, Arc::downgrade(&sending));
    Ok(Response::from_parts(head, Unsent(Some(sending))))
}

impl State {
    /// Updates the count of unsent bytes. Returns false if that exceeds a limit.
    fn count(&mut self) -> bool {
        self.ticket.count(self.announced.saturating_add(self.frame).saturating_add(self.out))
    }

    /// Restarts the timer for a blocked response: bytes were sent, or there are new bytes to send.
    fn moved(&mut self) {
        let has_more = self.out > 0 || self.frame > 0 || (self.announced > 0 && self.waiting.is_none());
        self.blocked_since = has_more.then(Instant::now);
    }

    /// Drops everything except the pieces that hyper holds.
    fn drop_content(&mut self) -> Option<Content> {
        (self.announced, self.frame, self.blocked_since) = (0, 0, None);
        let content = self.content.take();
        self.count();
        self.ticket.end();
        content
    }
}

impl Sending {
    /// Drops the response if nothing was sent for `limit`. Returns whether it did so now.
    pub(super) fn give_up(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        if state.blocked_since.is_none_or(|since| since.elapsed() < limit) {
            return false;
        }
        let content = state.drop_content();
        state.given_up = true;
        let waiting = state.waiting.take();
        drop(state);
        // Dropped outside of the lock, because the woken task may take it.
        drop(content);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    /// True if the response was dropped, but hyper still holds a part of it.
    pub(super) fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, bytes: usize) {
        let mut state = self.lock();
        state.out = state.out.saturating_sub(bytes as u64);
        if state.content.is_some() {
            state.moved();
        }
        state.count();
    }
}

/// The body of a response, in pieces. `None`: the body is empty.
#[derive(Default)]
pub struct Unsent(Option<Arc<Sending>>);

impl http_body::Body for Unsent {
    type Data = Piece;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, h2::Error>>> {
        let Some(sending) = &self.0 else { return Poll::Ready(None) };
        let mut guard = sending.lock();
        let state = &mut *guard;
        loop {
            let Some(content) = &mut state.content else { return Poll::Ready(Some(Err(given_up()))) };
            if !content.rest.is_empty() {
                let bytes = next_piece(&mut content.rest, state.frame);
                state.out += bytes.len() as u64;
                if content.rest.is_empty() {
                    state.frame = 0;
                }
                // The piece was counted as part of the frame until now.
                state.count();
                state.blocked_since.get_or_insert_with(Instant::now);
                let piece = Piece { length: bytes.len(), bytes, sending: sending.clone() };
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let polled = Pin::new(&mut content.body).poll_frame(context);
            if polled.is_ready() {
                state.waiting = None;
            }
            match polled {
                Poll::Pending => {
                    if state.out == 0 {
                        // There is nothing to send, so the client is not too slow.
                        state.blocked_since = None;
                    }
                    let waker = context.waker();
                    if state.waiting.as_ref().is_none_or(|waiting| !waiting.will_wake(waker)) {
                        state.waiting = Some(waker.clone());
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_))) => {
                    // The error has been logged already.
                    let content = state.drop_content();
                    drop(guard);
                    drop(content);
                    return Poll::Ready(Some(Err(h2::Reason::INTERNAL_ERROR.into())));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        state.frame = data.len() as u64;
                        state.announced = state.announced.saturating_sub(state.frame);
                        content.rest = data;
                        if !state.count() {
                            let content = state.drop_content();
                            drop(guard);
                            drop(content);
                            return Poll::Ready(Some(Err(given_up())));
                        }
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|sending| {
            let state = sending.lock();
            state.content.as_ref().is_some_and(|content| content.rest.is_empty() && content.body.is_end_stream())
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(sending) = &self.0 else { return SizeHint::with_exact(0) };
        let state = sending.lock();
        let Some(content) = &state.content else { return SizeHint::default() };
        let (rest, body) = (content.rest.len() as u64, content.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let Some(sending) = &self.0 else { return };
        let mut state = sending.lock();
        (state.announced, state.frame) = (0, 0);
        // Dropped here and not with the last piece: hyper drops that piece while it holds the lock of its connection,
        // and the body may end a request of the same connection.
        let content = state.content.as_mut();
        let rest = content.map(|content| (std::mem::take(&mut content.rest), std::mem::take(&mut content.body)));
        state.count();
        drop(state);
        drop(rest);
    }
}

/// Takes the next piece of a frame with `frame` bytes. A piece of a large frame is copied, because a slice would keep
/// the whole frame in memory.
fn next_piece(rest: &mut Bytes, frame: u64) -> Bytes {
    if frame <= PIECE as u64 {
        return std::mem::take(rest);
    }
    let piece = Bytes::copy_from_slice(&rest[..PIECE.min(rest.len())]);
    rest.advance(piece.len());
    if rest.is_empty() {
        *rest = Bytes::new();
    }
    piece
}

/// The error of a dropped response. It resets the stream with `CANCEL`, because the client did not read it.
fn given_up() -> h2::Error {
    h2::Reason::CANCEL.into()
}

/// A piece of a body that is being sent. It counts until it is dropped.
pub struct Piece {
    bytes: Bytes,
    length: usize,
    sending: Arc<Sending>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.sending.sent(self.length);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use http::{HeaderMap, Version};
    use http_body_util::{BodyExt, Full, StreamBody};
    use souk_common::config::Loader;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tokio_util::sync::CancellationToken;
    use tonic::Status;

    use super::{
        super::{Connections, Entry},
        *,
    };
    use crate::config::{DEFAULTS, Settings};

    const KIB: usize = 1024;

    /// A connection of a gateway on which an address may have 256 KiB of unread responses.
    async fn connection() -> (Arc<Connections>, Entry) {
        let settings = Loader::new().defaults("gateway", DEFAULTS).load().unwrap();
        let mut settings: Settings = settings.section("gateway").unwrap();
        settings.unsent.max_bytes_per_address = 256 * KIB;
        let open = Connections::new(&settings);
        let token = CancellationToken::new();
        let entry = open.enter("192.0.2.1".parse().unwrap(), &token, &token).await.unwrap();
        (open, entry)
    }

    fn begin(entry: &Entry) -> Result<Ticket, Problem> {
        entry.0.begin(entry.0.peer(), Version::HTTP_2).map_err(|(problem, _)| problem)
    }

    fn full(bytes: usize) -> Response<Body> {
        Response::new(Body::new(Full::new(Bytes::from(vec![7; bytes]))))
    }

    #[derive(Clone, Default)]
    struct Freed(Arc<AtomicBool>);

    struct Guard(Freed);

    impl Freed {
        fn guard(&self) -> Guard {
            Guard(self.clone())
        }

        fn is(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_response_counts_until_its_last_part_is_sent() {
        let (open, entry) = connection().await;
        let freed = Freed::default();
        let response = hold(full(100 * KIB), begin(&entry).unwrap(), freed.guard()).map_err(|_| ()).unwrap();
        assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(100 * KIB as u64));
        let whole = open.unsent_bytes();
        assert!(whole >= 100 * KIB as u64, "{whole}");
        let (mut body, mut pieces) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap_or_else(|_| panic!("no trailers were sent")));
        }
        assert!(pieces.iter().all(|piece| piece.remaining() <= PIECE));
        assert_eq!(pieces.iter().map(Buf::remaining).sum::<usize>(), 100 * KIB);
        assert!(http_body::Body::is_end_stream(&body));
        drop(body);
        assert!(open.unsent_bytes() >= 100 * KIB as u64 && !freed.is(), "hyper still has them");
        let last = pieces.pop();
        drop(pieces);
        assert!(open.unsent_bytes() < 20 * KIB as u64 && !freed.is() && !entry.0.is_idle());
        drop(last);
        assert_eq!((open.unsent_bytes(), entry.0.unsent.load(Ordering::Relaxed)), (0, 0));
        assert!(freed.is() && entry.0.is_idle());
    }

    #[tokio::test]
    async fn requests_above_the_limit_are_refused_and_free_their_bytes() {
        let (open, entry) = connection().await;
        let mut held = Vec::new();
        let problem = loop {
            match begin(&entry) {
                Ok(ticket) => match hold(full(100 * KIB), ticket, ()) {
                    Ok(response) => held.push(response),
                    Err((problem, _)) => break problem,
                },
                Err(problem) => break problem,
            }
        };
        assert_eq!(held.len(), 2);
        assert!(problem.retry_delay().is_some());
        drop(held);
        assert_eq!(open.unsent_bytes(), 0);
        assert!(begin(&entry).is_ok());
    }

    #[tokio::test]
    async fn an_unread_response_is_aborted_and_frees_its_bytes() {
        let (open, entry) = connection().await;
        let freed = Freed::default();
        let response = hold(full(100 * KIB), begin(&entry).unwrap(), freed.guard()).map_err(|_| ()).unwrap();
        let mut body = response.into_body();
        let piece = body.frame().await.unwrap().unwrap();
        let sending = body.0.clone().unwrap();
        assert!(!sending.give_up(Duration::from_secs(60)));
        assert!(sending.give_up(Duration::ZERO));
        assert!(freed.is() && entry.0.is_idle());
        let left = open.unsent_bytes();
        assert!((PIECE as u64..32 * KIB as u64).contains(&left), "the piece that hyper has: {left}");
        assert!(body.frame().await.unwrap().is_err());
        drop((sending, body, piece));
        assert_eq!(open.unsent_bytes(), 0);
    }

    #[tokio::test]
    async fn a_stream_is_aborted_only_if_it_has_something_to_send() {
        let (open, entry) = connection().await;
        let (events, received) = mpsc::unbounded_channel::<Result<Frame<Bytes>, Status>>();
        let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(received)));
        let response = hold(Response::new(body), begin(&entry).unwrap(), ()).map_err(|_| ()).unwrap();
        let mut body = response.into_body();
        let sending = body.0.clone().unwrap();
        let mut next = now(&mut body);
        assert!(next.is_none() && !sending.give_up(Duration::ZERO), "it is silent, and healthy");
        events.send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
        next = now(&mut body);
        let piece = next.unwrap().unwrap();
        assert!(piece.is_data());
        drop(piece);
        assert!(now(&mut body).is_none() && !sending.give_up(Duration::ZERO), "its event was read");
        events.send(Ok(Frame::data(Bytes::from_static(b"two")))).unwrap();
        let unread = now(&mut body).unwrap().unwrap();
        assert!(sending.give_up(Duration::ZERO));
        assert!(events.send(Ok(Frame::trailers(HeaderMap::new()))).is_err(), "the stream has ended");
        drop((unread, body, sending));
        assert_eq!(open.unsent_bytes(), 0);
    }

    /// The next frame, if one is ready.
    fn now(body: &mut Unsent) -> Option<Result<Frame<Piece>, h2::Error>> {
        futures::FutureExt::now_or_never(body.frame()).map(Option::unwrap)
    }
}
