//! All open connections: their limits, and the choice of connection that is closed at a limit.
//!
//! If an address or the whole gateway is at its limit of connections, a connection without a running request is closed.
//! So a new client is admitted as long as any connection is idle. A task checks regularly for connections that were
//! idle for too long, and for clients that do not read their responses.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Version;
use souk_common::{
    error::{Problem, Reason},
    quota::{self, Held, Quota},
    telemetry,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    pace::Pace,
    unsent::{MANY, Sending, Ticket},
};
use crate::{
    address::{self, Network},
    config::Settings,
};

/// Time for a closing idle connection to send its GOAWAY.
const GOODBYE: Duration = Duration::from_secs(1);
/// Maximum number of connections that close gracefully at the same time. Further ones are closed at once.
const GOODBYES: usize = 256;
/// Number of bytes that every request counts with. They cover its headers and the state that it needs until its
/// response is sent.
pub const REQUEST_BYTES: u64 = 8 * 1024;
/// The `Retry-After` for a client with too many unread responses.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// All connections of a gateway.
pub struct Connections {
    places: Arc<Quota>,
    unsent: Arc<Quota>,
    unsent_per_connection: u64,
    write_timeout: Duration,
    idle_timeout: Duration,
    trusted: Vec<Network>,
    /// Connections by address. For IPv6, the address is the /64.
    open: Mutex<HashMap<IpAddr, HashMap<u64, Arc<Connection>>>>,
    next: AtomicU64,
    goodbyes: Semaphore,
    pace: Pace,
    /// Signals that a place became free or a connection became idle.
    freed: Notify,
    started: Instant,
}

/// A client connection.
pub struct Connection {
    all: Arc<Connections>,
    id: u64,
    peer: IpAddr,
    trusted: bool,
    /// Taken when the connection is closed in favour of another one.
    place: Mutex<Option<Held>>,
    http1: AtomicBool,
    /// Number of requests whose response has not been sent completely.
    requests: AtomicUsize,
    /// When the connection became idle, in ms of the gateway's clock.
    idle_since: AtomicU64,
    /// When the client's side stopped accepting bytes, in ms of that clock. Zero: it accepts them.
    write_blocked_since: AtomicU64,
    /// Time until which nothing is read from the connection, in ms of that clock.
    paused_until: AtomicU64,
    /// Size of the responses that are not sent yet, in bytes.
    pub(super) unsent: AtomicU64,
    sending: Mutex<HashMap<u64, Weak<Sending>>>,
    next_response: AtomicU64,
    /// Tells the connection to end gracefully.
    stop: CancellationToken,
    /// Closes the connection at once.
    cut: CancellationToken,
}

/// An open connection, held while it is served.
pub struct Entry(pub Arc<Connection>);

impl Connections {
    /// Creates an empty set with the limits of these settings.
    pub fn new(settings: &Settings) -> Arc<Self> {
        let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        Arc::new(Self {
            places: Quota::new(bytes(settings.max_connections), bytes(settings.max_connections_per_address)),
            unsent: Quota::new(bytes(settings.unsent.max_bytes), bytes(settings.unsent.max_bytes_per_address)),
            unsent_per_connection: bytes(settings.unsent.max_bytes_per_connection),
            write_timeout: settings.write_timeout,
            idle_timeout: settings.idle_timeout,
            trusted: settings.trusted_proxies.clone(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            goodbyes: Semaphore::new(GOODBYES),
            pace: Pace::new(),
            freed: Notify::new(),
            started: Instant::now(),
        })
    }

    /// True if no connection is open.
    pub fn is_empty(&self) -> bool {
        self.open().is_empty()
    }

    /// Size of all unread responses, in bytes.
    #[cfg(test)]
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent.used()
    }

    /// Admits a connection. If its address is at its limit, an idle connection of that address is closed. If the
    /// gateway is at its limit, an idle connection of the address with the most connections is closed. If all
    /// connections of the gateway are busy, this waits. `None`: all connections of the address are busy.
    pub async fn enter(
        self: &Arc<Self>,
        peer: IpAddr,
        stop: &CancellationToken,
        cut: &CancellationToken,
    ) -> Option<Entry> {
        let trusted = address::is_trusted(peer.to_canonical(), &self.trusted);
        loop {
            let freed = self.freed.notified();
            let place = if trusted { self.places.take_of_total(1) } else { self.places.take(peer, 1) };
            if let Some(place) = place {
                return Some(self.add(peer, trusted, place, stop, cut));
            }
            match self.places.full(peer).filter(|_| !trusted) {
                // An address that opens thousands of connections may no longer replace its own. Replacing costs more
                // than refusing.
                Some(network) if self.replaces_too_often(peer) || !self.close_idle_in(network) => {
                    telemetry::metrics::connection_closed("refused");
                    tracing::debug!(%peer, "connection refused: its address has reached its limit");
                    return None;
                }
                None if !self.close_any_idle() => freed.await,
                _ => {}
            }
        }
    }

    fn add(
        self: &Arc<Self>,
        peer: IpAddr,
        trusted: bool,
        place: Held,
        stop: &CancellationToken,
        cut: &CancellationToken,
    ) -> Entry {
        let connection = Arc::new(Connection {
            all: self.clone(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
            peer,
            trusted,
            place: Mutex::new(Some(place)),
            http1: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            write_blocked_since: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            sending: Mutex::default(),
            next_response: AtomicU64::new(0),
            stop: stop.child_token(),
            cut: cut.child_token(),
        });
        self.open().entry(site(peer)).or_default().insert(connection.id, connection.clone());
        Entry(connection)
    }

    fn replaces_too_often(&self, peer: IpAddr) -> bool {
        self.pace.refused(site(peer), self.now()).is_some()
    }

    /// Closes an idle connection of a network. Returns whether there was one.
    fn close_idle_in(&self, network: quota::Network) -> bool {
        let open = self.open();
        let of_network =
            open.iter().filter(|(site, _)| network.contains(**site)).flat_map(|(_, of_site)| of_site.values());
        let found = longest_idle(of_network.filter(|connection| !connection.trusted)).cloned();
        drop(open);
        found.is_some_and(|connection| connection.close("full"))
    }

    /// Closes an idle connection of the address with the most connections. Connections of trusted proxies come last,
    /// because many clients share one.
    fn close_any_idle(&self) -> bool {
        let open = self.open();
        let mut sites: Vec<_> = open.values().collect();
        sites.sort_by_key(|of_site| {
            let trusted = of_site.values().next().is_some_and(|connection| connection.trusted);
            (trusted, std::cmp::Reverse(of_site.len()))
        });
        let found = sites.into_iter().find_map(|of_site| longest_idle(of_site.values())).cloned();
        drop(open);
        found.is_some_and(|connection| connection.close("full"))
    }

    /// Closes connections that were idle for too long, and drops responses of clients that do not read. Never returns.
    pub async fn watch(self: Arc<Self>) {
        let shortest = self.idle_timeout.min(self.write_timeout);
        let pause = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::time::sleep(pause).await;
            let all: Vec<_> = self.open().values().flat_map(HashMap::values).cloned().collect();
            for connection in all {
                connection.look(self.now());
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, HashMap<u64, Arc<Connection>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since `started` in ms, never zero.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// The network whose connections are counted together.
fn site(peer: IpAddr) -> IpAddr {
    address::site(peer.to_canonical())
}

fn longest_idle<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<&'a Arc<Connection>> {
    connections.filter(|one| one.is_idle()).min_by_key(|one| one.idle_since.load(Ordering::Relaxed))
}

impl Connection {
    /// Begins a request from this client address. Behind a proxy, it is not the address of the connection.
    ///
    /// # Errors
    /// `OVERLOADED` if this client, or all clients together, have too many unread responses.
    pub fn begin(self: &Arc<Self>, client: IpAddr, version: Version) -> Result<Ticket, (Problem, Ticket)> {
        self.http1.store(version < Version::HTTP_2, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::AcqRel);
        let ticket = Ticket::new(self.clone(), self.next_response.fetch_add(1, Ordering::Relaxed));
        match self.all.unsent.take(client, REQUEST_BYTES) {
            Some(held) if self.grow_unsent(REQUEST_BYTES) => Ok(ticket.with(held)),
            _ => Err((unread(), ticket)),
        }
    }

    /// The address of the peer.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Ends a request whose response was sent or dropped.
    pub(super) fn end(&self) {
        self.idle_since.store(self.all.now(), Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.freed.notify_waiters();
        }
    }

    /// Adds to the unsent bytes of this connection. Returns false and adds nothing if they would exceed the limit.
    pub(super) fn grow_unsent(&self, more: u64) -> bool {
        // A proxy's connection serves many clients, and each of them has its own limit.
        let most = if self.trusted { u64::MAX } else { self.all.unsent_per_connection };
        let grown = |unsent: u64| unsent.checked_add(more).filter(|sum| *sum <= most);
        self.unsent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Records whether the client's side currently accepts no bytes.
    pub fn set_write_blocked(&self, blocked: bool) {
        let since = &self.write_blocked_since;
        match (blocked, since.load(Ordering::Relaxed)) {
            (true, 0) => since.store(self.all.now(), Ordering::Relaxed),
            (false, 1..) => since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Records that a request from this address was refused because its client exceeded a limit. After too many such
    /// refusals, nothing is read from the connection for a while. A proxy's connection is not paused, because it serves
    /// many clients.
    pub fn refused(&self, client: IpAddr) {
        if !self.trusted
            && let Some(until) = self.all.pace.refused(address::site(client), self.all.now())
        {
            self.paused_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// How long nothing may be read from the connection.
    pub fn pause(&self) -> Option<Duration> {
        let until = self.paused_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        until.checked_sub(self.all.now()).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// Cancelled when the connection must end gracefully.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Completes when the connection must be closed at once.
    pub async fn cut(&self) {
        let closed = async {
            self.stop.cancelled().await;
            if self.place().is_some() {
                // The connection ends because the gateway stops or the connection is old. Other code handles that.
                return std::future::pending().await;
            }
            let Ok(_goodbye) = self.all.goodbyes.try_acquire() else { return };
            let until = Instant::now() + self.all.write_timeout;
            tokio::time::sleep(GOODBYE).await;
            // A request may have arrived before the client saw the GOAWAY.
            while self.requests.load(Ordering::Acquire) > 0 && Instant::now() < until {
                tokio::time::sleep(GOODBYE).await;
            }
        };
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = closed => {}
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Acquire) == 0 && !self.stop.is_cancelled()
    }

    /// Frees the place of the connection and ends it. Returns whether it still had a place.
    fn close(&self, why: &'static str) -> bool {
        let place = self.place().take();
        if place.is_some() {
            telemetry::metrics::connection_closed(why);
        }
        self.stop.cancel();
        place.is_some()
    }

    /// Closes the connection if it is idle for too long, and drops responses that its client does not read.
    fn look(&self, now: u64) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let since = |time: &AtomicU64| now.saturating_sub(time.load(Ordering::Relaxed));
        let blocked = self.write_blocked_since.load(Ordering::Relaxed) > 0;
        if blocked && since(&self.write_blocked_since) >= ms(self.all.write_timeout) {
            telemetry::metrics::connection_closed("unread");
            tracing::debug!(peer = %self.peer, "connection closed: the client reads nothing");
            self.cut.cancel();
            return;
        }
        let sending: Vec<_> = self.sending().values().filter_map(Weak::upgrade).collect();
        let mut given_up = 0;
        for response in sending {
            if response.is_given_up() {
                given_up += 1;
            } else if response.give_up(self.all.write_timeout) {
                telemetry::metrics::unread("given_up");
                tracing::debug!(peer = %self.peer, "response dropped: the client does not read it");
            }
        }
        // hyper frees its part of the dropped responses only when the client reads them or the connection closes. If
        // other HTTP/2 requests are running, the connection stays open for them.
        let alone = self.requests.load(Ordering::Acquire) == 0 || self.http1.load(Ordering::Relaxed);
        if given_up > 0 && alone {
            telemetry::metrics::connection_closed("unread");
            self.cut.cancel();
            return;
        }
        if given_up >= MANY {
            self.close("unread");
        }
        if self.is_idle() && since(&self.idle_since) >= ms(self.all.idle_timeout) {
            self.close("idle");
        }
    }

    pub(super) fn sending(&self) -> MutexGuard<'_, HashMap<u64, Weak<Sending>>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, Option<Held>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let connection = &self.0;
        let mut open = connection.all.open();
        let site = site(connection.peer);
        if let Some(of_site) = open.get_mut(&site) {
            of_site.remove(&connection.id);
            if of_site.is_empty() {
                open.remove(&site);
            }
        }
        drop(open);
        drop(connection.place().take());
        connection.all.freed.notify_waiters();
    }
}

/// The error for a client that must read its responses before it gets more.
pub fn unread() -> Problem {
    telemetry::metrics::unread("refused");
    let message = "more responses are unread than may be: read them, and try again";
    Problem::new(Reason::Overloaded, message).retry_after(RETRY_AFTER)
}
