//! The addresses of a service, and the choice of the address for the next call.
//!
//! tower's `Balance` picks by the same rule. But it is one task that all calls wait for, it cannot choose another
//! address for a retry, and it drops an address for good after the first error. Working around this would take more
//! code than this module has.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use futures::future::join_all;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{address::Origin, connection::Connection, link::Link};
use crate::{
    local::Local,
    telemetry::addresses::{self, AddressState, Observed},
};

/// The interval at which host names are resolved.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// The interval after a host name could not be resolved.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
/// How long a call waits for an address to come back if no address is connected.
const BRIDGE: Duration = Duration::from_millis(250);
/// The interval of health checks of an address that reconnects.
const RENEWING: Duration = Duration::from_millis(20);

/// The addresses of a service. Dropping the value stops the tasks that keep them connected.
pub(super) struct Backend {
    shared: Arc<Shared>,
    _observed: Observed,
    _stop: DropGuard,
}

struct Shared {
    origins: Vec<Origin>,
    connect_timeout: Duration,
    local: Local,
    links: RwLock<Vec<Kept>>,
    /// True after the first attempt to resolve the addresses.
    resolved: watch::Sender<bool>,
    /// Notifies of each change of a link. `true` after the first change.
    changed: watch::Sender<bool>,
}

struct Kept {
    link: Arc<Link>,
    _stop: DropGuard,
}

impl Backend {
    /// Connects to these addresses and keeps them connected.
    pub(super) fn new(origins: Vec<Origin>, connect_timeout: Duration, local: Local) -> Self {
        let target = origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let fixed: Option<Vec<_>> = origins.iter().map(|origin| Some((origin.fixed()?, origin.clone()))).collect();
        let shared = Arc::new(Shared {
            origins,
            connect_timeout,
            local,
            links: RwLock::default(),
            resolved: watch::Sender::new(fixed.is_some()),
            changed: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        match fixed {
            Some(addresses) => shared.update(addresses, &stop),
            None => drop(tokio::spawn(stop.clone().run_until_cancelled_owned(shared.clone().discover(stop.clone())))),
        }
        let observed = addresses::observe(target, {
            let shared = shared.clone();
            move || shared.states()
        });
        Self { shared, _observed: observed, _stop: stop.drop_guard() }
    }

    /// Returns a lease of the best address for a call: one that is up and not among the `tried`. If no address is up,
    /// returns the best of those that are connected, since it may still answer. If no address is connected, waits a
    /// moment for a connection. Returns `None` if there is none in that time, or at once if the last attempt to connect
    /// failed just now for every address. This is a circuit breaker: each address has one attempt to connect at a time,
    /// calls can only make it start sooner, and its success closes the breaker.
    pub(super) async fn acquire(&self, tried: &[SocketAddr]) -> Option<Lease> {
        if let Some(lease) = self.pick(tried) {
            return Some(lease);
        }
        let mut changes = self.shared.changed.subscribe();
        let mut resolved = self.shared.resolved.subscribe();
        let renewing = self.shared.links().iter().any(|kept| kept.link.is_renewing());
        let timeout = if *changes.borrow() && !renewing { BRIDGE } else { self.shared.connect_timeout };
        let wait = async {
            resolved.wait_for(|resolved| *resolved).await.ok()?;
            loop {
                changes.borrow_and_update();
                if let Some(lease) = self.pick(tried) {
                    return Some(lease);
                }
                // Counts all links, because `want` must be called on each of them.
                if self.shared.links().iter().filter(|kept| kept.link.want()).count() == 0 {
                    return None;
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, wait).await.ok().flatten()
    }

    fn pick(&self, tried: &[SocketAddr]) -> Option<Lease> {
        let links = self.shared.links();
        let connected = links.iter().filter_map(|kept| {
            let (connection, state) = kept.link.connection()?;
            Some(((state, !tried.contains(&kept.link.address)), &kept.link, connection))
        });
        let (link, connection) = choose(connected.collect(), |link| link.in_flight())?;
        link.begin();
        Some(Lease { link: link.clone(), connection })
    }

    /// True if an address that has not been tried is up.
    pub(super) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        let up = |link: &Link| link.address_state() == AddressState::Up;
        self.shared.links().iter().any(|kept| !tried.contains(&kept.link.address) && up(&kept.link))
    }

    /// Records that a call to this address failed in a way that counts against it. At most half of the addresses are
    /// ejected at a time.
    pub(super) fn failed(&self, address: SocketAddr) {
        let links = self.shared.links();
        let ejected = links.iter().filter(|kept| kept.link.address_state() == AddressState::Ejected).count();
        let may = 2 * (ejected + 1) <= links.len();
        if let Some(kept) = links.iter().find(|kept| kept.link.address == address) {
            kept.link.failed(may);
        }
    }

    /// Checks the health of every address, and connects to at least one if possible. If no address is up because
    /// connections are being replaced after their maximum age, waits for the new connections.
    pub(super) async fn check(&self, timeout: Duration) -> Vec<(SocketAddr, AddressState)> {
        let deadline = Instant::now() + timeout;
        loop {
            let _ = tokio::time::timeout_at(deadline, self.acquire(&[])).await;
            let links: Vec<_> = self.shared.links().iter().map(|kept| kept.link.clone()).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            join_all(links.iter().map(|link| link.check(left))).await;
            let states = self.shared.states();
            let up = states.iter().any(|(_, state)| *state == AddressState::Up);
            if up || !links.iter().any(|link| link.is_renewing()) || Instant::now() + RENEWING > deadline {
                return states;
            }
            tokio::time::sleep(RENEWING).await;
        }
    }
}

impl Shared {
    /// Resolves the host names at intervals.
    async fn discover(self: Arc<Self>, stop: CancellationToken) {
        let mut found = vec![Vec::new(); self.origins.len()];
        loop {
            let looked_up =
                join_all(self.origins.iter().map(|origin| tokio::net::lookup_host(&origin.authority))).await;
            let mut pause = RESOLVE_EVERY;
            for ((origin, looked_up), found) in self.origins.iter().zip(looked_up).zip(&mut found) {
                match looked_up {
                    Ok(addresses) => *found = addresses.map(|address| (address, origin.clone())).collect(),
                    Err(error) => {
                        // Keeps the addresses of the last successful lookup: if a resolver is down, they are probably
                        // still valid.
                        tracing::debug!(%origin, %error, "host name not resolved");
                        pause = RESOLVE_AGAIN;
                    }
                }
            }
            self.update(found.concat(), &stop);
            self.resolved.send_replace(true);
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
        }
    }

    /// Replaces the set of addresses by `wanted`. Running calls to a removed address may end.
    fn update(self: &Arc<Self>, wanted: Vec<(SocketAddr, Origin)>, stop: &CancellationToken) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|kept| wanted.iter().any(|(address, _)| *address == kept.link.address));
        for (address, origin) in wanted {
            if links.iter().any(|kept| kept.link.address == address) {
                continue;
            }
            let link = Arc::new(Link::new(address, origin, self.local.clone()));
            let stop = stop.child_token();
            let (kept, shared) = (link.clone(), self.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                let changed = || {
                    shared.changed.send_replace(true);
                };
                kept.keep(shared.connect_timeout, changed).await;
            }));
            links.push(Kept { link, _stop: stop.drop_guard() });
        }
    }

    fn states(&self) -> Vec<(SocketAddr, AddressState)> {
        self.links().iter().map(|kept| (kept.link.address, kept.link.address_state())).collect()
    }

    fn links(&self) -> RwLockReadGuard<'_, Vec<Kept>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chooses among the candidates of the highest rank: of two random ones, the one with less `load`.
fn choose<R: Ord + Copy, L, C>(mut candidates: Vec<(R, L, C)>, load: impl Fn(&L) -> usize) -> Option<(L, C)> {
    let best = candidates.iter().map(|(rank, ..)| *rank).max()?;
    candidates.retain(|(rank, ..)| *rank == best);
    let count = candidates.len();
    let first = rand::random_range(0..count);
    let second = if count > 1 { (first + rand::random_range(1..count)) % count } else { first };
    let less = if load(&candidates[second].1) < load(&candidates[first].1) { second } else { first };
    let (_, link, connection) = candidates.swap_remove(less);
    Some((link, connection))
}

/// A call's lease of an address. It counts the call as running until it is dropped.
pub(super) struct Lease {
    link: Arc<Link>,
    pub(super) connection: Connection,
}

impl Lease {
    pub(super) fn address(&self) -> SocketAddr {
        self.link.address
    }

    /// Records that the call succeeded.
    pub(super) fn succeeded(&self) {
        self.link.succeeded();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each candidate is chosen in 2,000 runs.
    fn chosen(candidates: &[(u8, usize)]) -> Vec<u32> {
        let mut counts = vec![0; candidates.len()];
        for _ in 0..2000 {
            let listed = candidates.iter().enumerate().map(|(at, (rank, load))| (*rank, (at, *load), ())).collect();
            let ((at, _), ()) = choose(listed, |(_, load)| *load).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn the_less_loaded_of_two_of_the_best_is_chosen() {
        assert!(choose(Vec::<((), (), ())>::new(), |()| 0).is_none());
        assert_eq!(chosen(&[(1, 9)]), [2000]);
        assert_eq!(chosen(&[(1, 3), (1, 2)]), [0, 2000]);
        assert_eq!(chosen(&[(1, 0), (2, 9), (0, 0)]), [0, 2000, 0], "rank goes before load");
        let even = chosen(&[(1, 4), (1, 4), (1, 4), (1, 4)]);
        assert!(even.iter().all(|count| (400..600).contains(count)), "{even:?}");
        let uneven = chosen(&[(1, 1), (1, 2), (1, 3)]);
        assert!(uneven[0] > uneven[1] && uneven[1] > 0 && uneven[2] == 0, "{uneven:?}");
    }
}
