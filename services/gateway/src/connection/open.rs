//! All open connections: their limits, and which one is closed at a limit.
//!
//! An address that has as many connections as it may, and a gateway that has, close one without a request under way, so
//! that a new client is let in as long as there is any. A task looks from time to time for those that were idle for too
//! long, and for clients that do not read what is sent to them.

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

/// How long a closed idle connection has for its GOAWAY.
const GOODBYE: Duration = Duration::from_secs(1);
/// The most connections that close gracefully at a time. Further ones are closed at once.
const GOODBYES: usize = 256;
/// Bytes that are counted for a request, whatever it is: its headers, and what is kept of it until its response is sent.
pub const REQUEST_BYTES: u64 = 8 * 1024;
/// The `Retry-After` for a client with too many unread responses.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The connections of a gateway.
pub struct Connections {
    places: Arc<Quota>,
    unsent: Arc<Quota>,
    unsent_per_connection: u64,
    write_timeout: Duration,
    idle_timeout: Duration,
    trusted: Vec<Network>,
    /// By address, of IPv6 by /64.
    open: Mutex<HashMap<IpAddr, HashMap<u64, Arc<Connection>>>>,
    next: AtomicU64,
    goodbyes: Semaphore,
    pace: Pace,
    /// A place was given back, or a connection became idle.
    freed: Notify,
    started: Instant,
}

/// One of them.
pub struct Connection {
    all: Arc<Connections>,
    id: u64,
    peer: IpAddr,
    trusted: bool,
    /// Returned when it is closed for another connection.
    place: Mutex<Option<Held>>,
    http1: AtomicBool,
    /// Requests that came and whose response is not all sent yet.
    requests: AtomicUsize,
    /// Since when there are none, in ms of the gateway's time.
    idle_since: AtomicU64,
    /// Since when the client's side takes no bytes, in ms; zero: it does.
    write_blocked_since: AtomicU64,
    /// Until when nothing is read from it, in ms.
    paused_until: AtomicU64,
    /// Bytes of responses that are not sent yet.
    pub(super) unsent: AtomicU64,
    sending: Mutex<HashMap<u64, Weak<Sending>>>,
    next_response: AtomicU64,
    /// Asks it to end.
    stop: CancellationToken,
    /// Cuts it off.
    cut: CancellationToken,
}

/// An open connection, as long as it is served.
pub struct Entry(pub Arc<Connection>);

impl Connections {
    /// With the limits of these settings.
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open().is_empty()
    }

    /// Bytes of responses that are not read yet.
    #[cfg(test)]
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.unsent.used()
    }

    /// Admits a connection. If its address is at its limit, an idle connection of that address is closed for it. If the
    /// gateway is at its limit, an idle connection of the address with the most is closed. If all of the gateway's
    /// connections are busy, it waits. `None`: all connections of the address are busy.
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
                // One that opens them by the thousand replaces its own no longer: that costs more than to refuse it.
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

    /// Closes an idle connection of a network. Whether there was one.
    fn close_idle_in(&self, network: quota::Network) -> bool {
        let open = self.open();
        let of_network =
            open.iter().filter(|(site, _)| network.contains(**site)).flat_map(|(_, of_site)| of_site.values());
        let found = longest_idle(of_network.filter(|connection| !connection.trusted)).cloned();
        drop(open);
        found.is_some_and(|connection| connection.close("full"))
    }

    /// Closes an idle connection, of the address that has most. Those of trusted proxies come last: many clients share
    /// one.
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

    /// Closes connections that are idle for too long, and drops responses of clients that do not read. Never returns.
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

    /// In ms, and never zero.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Whose connections are counted together.
fn site(peer: IpAddr) -> IpAddr {
    address::site(peer.to_canonical())
}

fn longest_idle<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<&'a Arc<Connection>> {
    connections.filter(|one| one.is_idle()).min_by_key(|one| one.idle_since.load(Ordering::Relaxed))
}

impl Connection {
    /// Begins a request from this address, which may be another one than the connection's where a proxy sent it.
    ///
    /// # Errors
    /// `OVERLOADED` where the client, or all clients together, do not read what was sent to them.
    pub fn begin(self: &Arc<Self>, client: IpAddr, version: Version) -> Result<Ticket, (Problem, Ticket)> {
        self.http1.store(version < Version::HTTP_2, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::AcqRel);
        let ticket = Ticket::new(self.clone(), self.next_response.fetch_add(1, Ordering::Relaxed));
        match self.all.unsent.take(client, REQUEST_BYTES) {
            Some(held) if self.grow_unsent(REQUEST_BYTES) => Ok(ticket.with(held)),
            _ => Err((unread(), ticket)),
        }
    }

    /// The address at the other end.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// A request is over: its response was sent, or given up.
    pub(super) fn end(&self) {
        self.idle_since.store(self.all.now(), Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.freed.notify_waiters();
        }
    }

    /// Counts more unsent bytes of this connection, up to what one may have. Whether it did.
    pub(super) fn grow_unsent(&self, more: u64) -> bool {
        // A proxy's connection has many clients, and each has a limit.
        let most = if self.trusted { u64::MAX } else { self.all.unsent_per_connection };
        let grown = |unsent: u64| unsent.checked_add(more).filter(|sum| *sum <= most);
        self.unsent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Whether the client's side takes no bytes now.
    pub fn set_write_blocked(&self, blocked: bool) {
        let since = &self.write_blocked_since;
        match (blocked, since.load(Ordering::Relaxed)) {
            (true, 0) => since.store(self.all.now(), Ordering::Relaxed),
            (false, 1..) => since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// A request from this address was refused for what its client has used up. Too many of these, and nothing is read
    /// from the connection for a while. A proxy's connection has many clients, and is not held up for one of them.
    pub fn refused(&self, client: IpAddr) {
        if !self.trusted
            && let Some(until) = self.all.pace.refused(address::site(client), self.all.now())
        {
            self.paused_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// For how long nothing is to be read from it.
    pub fn pause(&self) -> Option<Duration> {
        let until = self.paused_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        until.checked_sub(self.all.now()).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// Asks it to end, gracefully.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Done when it must be cut off.
    pub async fn cut(&self) {
        let closed = async {
            self.stop.cancelled().await;
            if self.place().is_some() {
                // The gateway stops, or the connection is old: handled elsewhere.
                return std::future::pending().await;
            }
            let Ok(_goodbye) = self.all.goodbyes.try_acquire() else { return };
            let until = Instant::now() + self.all.write_timeout;
            tokio::time::sleep(GOODBYE).await;
            // A request may have come before the client learned of the end.
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

    /// Gives its place to another one, and ends it. Whether it was still there to be closed.
    fn close(&self, why: &'static str) -> bool {
        let place = self.place().take();
        if place.is_some() {
            telemetry::metrics::connection_closed(why);
        }
        self.stop.cancel();
        place.is_some()
    }

    /// Checks whether its client is idle or does not read.
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
        // What hyper has of them is free only when they are read, or with the connection. Other requests may continue.
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

/// The error for a client that must read before it gets more.
pub fn unread() -> Problem {
    telemetry::metrics::unread("refused");
    let message = "more responses are unread than may be: read them, and try again";
    Problem::new(Reason::Overloaded, message).retry_after(RETRY_AFTER)
}
