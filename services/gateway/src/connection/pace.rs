//! Slows down addresses that go on asking while they are refused.
//!
//! A refusal costs the gateway little, but a client that sends as fast as it can takes all of a core with them. So an
//! address that was refused more often than a client that waits as it is told ever is gets no more of its bytes read for a
//! while. What it sent stays in the system's buffers, and its own sending comes to a halt.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

/// Refusals of one address that may come at once.
const BURST: u64 = 200;
/// Milliseconds after which there may be one more.
const INTERVAL: u64 = 10;
/// The longest pause. The other clients behind the same address wait as long, and only once they are refused, too.
const LONGEST: u64 = 5_000;
/// Addresses that are known at a time.
const KEPT: u64 = 10_000;

/// How often addresses were refused lately.
pub struct Pace {
    /// When the last refusal of an address will be forgotten, in ms of the gateway's time.
    until: Cache<IpAddr, Arc<AtomicU64>>,
}

impl Pace {
    pub fn new() -> Self {
        let forgotten = Duration::from_millis(BURST * INTERVAL + LONGEST);
        Self { until: Cache::builder().max_capacity(KEPT).time_to_idle(forgotten).build() }
    }

    /// An address was refused. Until when nothing more is to be read from it.
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
    fn a_client_that_waits_is_never_slowed_down_and_one_that_does_not_is() {
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
