//! Ejects an address for a while if its calls keep failing although its health checks succeed.

use std::time::Duration;

use tokio::time::Instant;

/// The number of consecutive failures after which an address is ejected.
const FAILURES: u32 = 5;
/// Duration of the first ejection. Each further ejection lasts twice as long as the last one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest ejection. After as long without failures, an address starts with [`FIRST`] again.
const LONGEST: Duration = Duration::from_secs(30);

/// The results of the calls to an address.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    failures: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Outlier {
    /// True while the address is ejected.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Records a successful call.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        if self.until.is_some_and(|until| now > until + LONGEST) {
            *self = Self::default();
        }
    }

    /// Records a failed call. Returns true if the address is ejected now, which requires that `may` is true. After an
    /// ejection ends, the next failure ejects the address again, until a call succeeds.
    pub(super) fn failed(&mut self, now: Instant, may: bool) -> bool {
        self.failures = self.failures.saturating_add(1);
        let eject = may && self.failures >= FAILURES && !self.is_ejected(now);
        if eject {
            let length = FIRST.saturating_mul(1 << self.ejections.min(10)).min(LONGEST);
            self.ejections = self.ejections.saturating_add(1);
            self.until = Some(now + length);
        }
        eject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(outlier: &mut Outlier, now: Instant, times: u32) -> bool {
        (0..times).fold(false, |ejected, _| outlier.failed(now, true) || ejected)
    }

    #[test]
    fn five_failures_in_a_row_eject_an_address_and_longer_each_time() {
        let (mut outlier, mut now) = (Outlier::default(), Instant::now());
        assert!(!fail(&mut outlier, now, FAILURES - 1));
        outlier.succeeded(now);
        assert!(!fail(&mut outlier, now, FAILURES - 1));
        assert!(fail(&mut outlier, now, 1));
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(outlier.is_ejected(now + Duration::from_secs(seconds) - Duration::from_millis(1)), "{seconds}");
            now += Duration::from_secs(seconds);
            assert!(!outlier.is_ejected(now), "{seconds}");
            assert!(fail(&mut outlier, now, 1), "one more failure is enough");
        }
        now += LONGEST;
        outlier.succeeded(now);
        assert!(!fail(&mut outlier, now, 1), "a success gives a second chance");
        now += LONGEST + Duration::from_secs(1);
        outlier.succeeded(now);
        fail(&mut outlier, now, FAILURES);
        assert!(!outlier.is_ejected(now + FIRST), "after a good time it starts anew");
    }

    #[test]
    fn the_last_healthy_address_is_not_ejected() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        assert!((0..20).all(|_| !outlier.failed(now, false)));
        assert!(outlier.failed(now, true));
    }
}
