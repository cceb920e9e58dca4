//! One address of a backend: keeps a connection to it, checks its health, and tracks the results of its calls.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::{
    address::Origin,
    connection::{Connection, Ended, Health},
    outlier::Outlier,
};
use crate::{local::Local, telemetry::addresses::AddressState};

/// The interval of health checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The timeout of a health check. An address that takes longer is called only if there is no other.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// After this many health checks without a response, the connection is closed with all its calls. If the network drops
/// packets, the calls would otherwise hang for ever.
const UNANSWERED: u32 = 4;
/// The pause after the first failed attempt to connect, and the minimum pause while calls wait for the address.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The maximum pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One address of a backend, with its connection.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    origin: Origin,
    local: Local,
    state: Mutex<State>,
    in_flight: AtomicUsize,
    wanted: Notify,
}

struct State {
    phase: Phase,
    outlier: Outlier,
}

enum Phase {
    /// `renewing`: the server closed the last connection with a GOAWAY, so the next attempt is likely to succeed.
    Trying {
        renewing: bool,
    },
    Failed {
        since: Instant,
    },
    Connected {
        connection: Connection,
        health: Health,
    },
}

impl Link {
    pub(super) fn new(address: SocketAddr, origin: Origin, local: Local) -> Self {
        let state = State { phase: Phase::Trying { renewing: false }, outlier: Outlier::default() };
        Self { address, origin, local, state: Mutex::new(state), in_flight: AtomicUsize::new(0), wanted: Notify::new() }
    }

    /// Keeps the address connected. Calls `changed` after each change of its state.
    pub(super) async fn keep(&self, connect_timeout: Duration, changed: impl Fn()) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            if let Ok(Some((connection, health, task))) = tokio::time::timeout(connect_timeout, self.connect()).await {
                let since = Instant::now();
                self.enter(Phase::Connected { connection: connection.clone(), health });
                changed();
                let ended = self.watch(connection, task, &changed).await;
                let lived = since.elapsed();
                if lived > LONGEST_PAUSE {
                    pause = SHORTEST_PAUSE;
                }
                if lived > LONGEST_PAUSE || (ended == Ended::Goodbye && lived > SHORTEST_PAUSE) {
                    self.enter(Phase::Trying { renewing: ended == Ended::Goodbye });
                    changed();
                    continue;
                }
            }
            self.enter(Phase::Failed { since: Instant::now() });
            changed();
            // Jitter, so that clients that lost a server at the same time do not reconnect at the same time.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
            let _ = tokio::time::timeout(jittered, self.wanted.notified()).await;
            self.enter(Phase::Trying { renewing: false });
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn enter(&self, phase: Phase) {
        let left = std::mem::replace(&mut self.state().phase, phase);
        // Dropped after the lock is released: this connection may hold the last reference to a server of this process,
        // and dropping that server must not happen under the lock.
        drop(left);
    }

    /// Opens a connection and checks that the server responds.
    async fn connect(&self) -> Option<(Connection, Health, JoinHandle<Ended>)> {
        let (mut connection, task) = match Connection::open(self.address, &self.origin).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(address = %self.address, error = &*error, "cannot connect");
                return None;
            }
        };
        match connection.check(CHECK_TIMEOUT).await {
            Health::Silent => {
                connection.cut();
                None
            }
            health => {
                connection.shortened(self.address, &self.origin, &self.local);
                Some((connection, health, task))
            }
        }
    }

    /// Checks the server's health at intervals until the connection is lost.
    async fn watch(&self, connection: Connection, mut task: JoinHandle<Ended>, changed: &impl Fn()) -> Ended {
        let mut unanswered = 0;
        while unanswered < UNANSWERED {
            let ask = async {
                tokio::time::sleep(CHECK_EVERY.mul_f64(rand::random_range(0.8..1.2))).await;
                connection.check(CHECK_TIMEOUT).await
            };
            let health = tokio::select! {
                ended = &mut task => return ended.unwrap_or(Ended::Lost),
                health = ask => health,
            };
            unanswered = if health == Health::Silent { unanswered + 1 } else { 0 };
            self.heard(health);
            changed();
        }
        connection.cut();
        Ended::Lost
    }

    fn heard(&self, said: Health) {
        if let Phase::Connected { health, .. } = &mut self.state().phase {
            *health = said;
        }
    }

    /// Checks the server's health now.
    pub(super) async fn check(&self, timeout: Duration) {
        let Some((connection, _)) = self.connection() else { return };
        let said = connection.check(timeout).await;
        // If this connection ended during the check, the result says nothing about the next connection.
        if !connection.is_closed() {
            self.heard(said);
        }
    }

    /// The connection, if calls can be sent on it, and the state of the address.
    pub(super) fn connection(&self) -> Option<(Connection, AddressState)> {
        let state = self.state();
        let Phase::Connected { connection, health } = &state.phase else { return None };
        let state = match health {
            Health::Silent => AddressState::Silent,
            Health::NotServing => AddressState::NotServing,
            Health::Serving if state.outlier.is_ejected(Instant::now()) => AddressState::Ejected,
            Health::Serving => AddressState::Up,
        };
        (!connection.is_closed()).then(|| (connection.clone(), state))
    }

    /// The state of the address.
    pub(super) fn address_state(&self) -> AddressState {
        self.connection().map_or(AddressState::Down, |(_, state)| state)
    }

    /// True if the connection has just ended or received a GOAWAY, and a new one is being opened.
    pub(super) fn is_renewing(&self) -> bool {
        match &self.state().phase {
            Phase::Trying { renewing } => *renewing,
            Phase::Connected { connection, .. } => connection.is_closed(),
            Phase::Failed { .. } => false,
        }
    }

    /// Reports that a call is waiting for the address. This ends a pause between attempts to connect. Returns true if
    /// an attempt is likely to succeed.
    pub(super) fn want(&self) -> bool {
        let mut state = self.state();
        if let Phase::Failed { since } = state.phase {
            if since.elapsed() < SHORTEST_PAUSE {
                return false;
            }
            state.phase = Phase::Trying { renewing: false };
            self.wanted.notify_one();
        }
        true
    }

    /// Records a successful call.
    pub(super) fn succeeded(&self) {
        self.state().outlier.succeeded(Instant::now());
    }

    /// Records a failed call. After too many failures the address is ejected for a while, if `may` is true.
    pub(super) fn failed(&self, may: bool) {
        if self.state().outlier.failed(Instant::now(), may) {
            tracing::warn!(address = %self.address, "address ejected for a while: its calls keep failing");
        }
    }

    /// The number of running calls.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
