//! Slows down addresses that keep sending requests while they are refused.
//!
//! A refusal costs the gateway little. But a client that sends as fast as it can would use a whole core with refusals.
//! So the gateway stops reading from an address for a while if it was refused more often than any client that respects
//! `Retry-After`. Its bytes stay in the system's buffers, which fill up and stop the client.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

/// Number of refusals of one address that cause no pause if they come at once.
const BURST: u64 = 200;
/// Time in which one more refusal is allowed, in milliseconds.
const INTERVAL: u64 = 10;
/// The longest pause, in milliseconds. Other clients behind the same address wait as long, but only if they are
/// refused, too.
const LONGEST: u64 = 5_000;
/// Maximum number of addresses that are tracked.
const KEPT: u64 = 10_000;

/// Recent refusals of addresses.
pub struct Pace {
    /// For each address, the time when its refusals are forgotten, in ms of the gateway's clock.
    until: Cache<IpAddr, Arc<AtomicU64>>,
}

impl Pace {
    pub fn new() -> Self {
        let forgotten = Duration::from_millis(BURST * INTERVAL + LONGEST);
        Self { until: Cache::builder().max_capacity(KEPT).time_to_idle(forgotten).build() }
    }

    /// Counts a refusal of an address. If it must pause, returns the time until which nothing is read from it.
    pub fn refused(&self, site: IpAddr, now: u64) -> Option<u64> {
        let until = self.until.get_with(site, Arc::default);
        let later = |until: u64| Some((until.max(now) + INTERVAL).min(now + BURST * INTERVAL + LONGEST));
        let before = until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_else(|before| before);
        let after = later(before).unwrap_or(now);
        after.checked_sub(BURST * INTERVAL).filter(|resumes| *resumes > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_does_not_wait_is_slowed_down() {
        let (pace, patient, hasty) = (Pace::new(), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..BURST {
            assert_eq!(pace.refused(hasty, 0), None);
        }
        assert_eq!(pace.refused(hasty, 0), Some(INTERVAL));
        assert_eq!(pace.refused(hasty, 0), Some(2 * INTERVAL));
        for _ in 0..10_000 {
            pace.refused(hasty, 1);
        }
        assert_eq!(pace.refused(hasty, 1), Some(1 + LONGEST), "the pause has a bound");
        assert_eq!(pace.refused(hasty, 1 + LONGEST + BURST * INTERVAL), None, "and is forgotten");
        for now in (0..100_000).step_by(10) {
            assert_eq!(pace.refused(patient, now), None);
        }
    }
}
