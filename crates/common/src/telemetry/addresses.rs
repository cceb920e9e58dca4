//! Metrics of the addresses that calls to other services go to.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry::{KeyValue, StringValue, metrics::Meter};

/// The state of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressState {
    /// There is no connection to the address.
    Down,
    /// The address is connected but does not respond.
    Silent,
    /// The address reports that it is not serving: it is about to stop, or a dependency is missing.
    NotServing,
    /// The address reports that it is serving, but its calls failed, so it is ejected for a while.
    Ejected,
    /// The address is up and receives calls.
    Up,
}

impl AddressState {
    /// The name of the state in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Silent => "silent",
            Self::NotServing => "not_serving",
            Self::Ejected => "ejected",
            Self::Up => "up",
        }
    }
}

type States = Box<dyn Fn() -> Vec<(SocketAddr, AddressState)> + Send + Sync>;

static TARGETS: Mutex<Vec<(u64, StringValue, States)>> = Mutex::new(Vec::new());

/// Adds the addresses of a target to the metrics until the returned value is dropped. `states` is called at each
/// reading and must not block.
pub(crate) fn observe(
    target: impl Into<StringValue>,
    states: impl Fn() -> Vec<(SocketAddr, AddressState)> + Send + Sync + 'static,
) -> Observed {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    targets().push((id, target.into(), Box::new(states)));
    Observed(id)
}

/// Keeps the addresses of a target in the metrics.
#[derive(Debug)]
#[must_use = "dropping it takes the addresses out of the metrics"]
pub(crate) struct Observed(u64);

impl Drop for Observed {
    fn drop(&mut self) {
        // Removed from the list first and dropped later: dropping the closure must not happen while the list is locked.
        let found = {
            let mut targets = targets();
            let at = targets.iter().position(|(id, ..)| *id == self.0);
            at.map(|at| targets.swap_remove(at))
        };
        drop(found);
    }
}

fn targets() -> MutexGuard<'static, Vec<(u64, StringValue, States)>> {
    TARGETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates the instruments. `grpc.target` is gRPC's own term for the configured target of a client.
pub(super) fn install(meter: &Meter) {
    let addresses = |observer: &dyn opentelemetry::metrics::AsyncInstrument<i64>| {
        for (_, target, states) in targets().iter() {
            for (address, state) in states() {
                let attributes = [
                    KeyValue::new("grpc.target", target.clone()),
                    KeyValue::new("server.address", address.ip().to_string()),
                    KeyValue::new("server.port", i64::from(address.port())),
                    KeyValue::new("state", state.name()),
                ];
                observer.observe(1, &attributes);
            }
        }
    };
    meter
        .i64_observable_gauge("rpc.client.addresses")
        .with_description("Addresses of other services, by their state")
        .with_callback(addresses)
        .build();
    let breakers = |observer: &dyn opentelemetry::metrics::AsyncInstrument<i64>| {
        for (_, target, states) in targets().iter() {
            let open = states().iter().all(|(_, state)| *state == AddressState::Down);
            observer.observe(i64::from(open), &[KeyValue::new("grpc.target", target.clone())]);
        }
    };
    meter
        .i64_observable_gauge("rpc.client.breaker.open")
        .with_description("1 where no address can be called and calls fail at once")
        .with_callback(breakers)
        .build();
}
