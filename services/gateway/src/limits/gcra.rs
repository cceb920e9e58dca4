//! The generic cell rate algorithm: a budget that refills evenly. Each key stores one number.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A burst and a refill rate. In any period, at most `burst` requests plus those refilled in that period are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Number of requests that are admitted at once from a full budget. At least 1.
    pub burst: u32,
    /// Time in which the budget regains one request, in microseconds. At least 1.
    pub interval: u64,
}

/// The result of charging a request to a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Number of requests of cost 1 that are still admitted at once.
    pub remaining: u32,
    /// Time until the budget is full again.
    pub full_in: Duration,
    /// Set if the budget was too small for the request: the time until it suffices.
    pub denied: Option<Duration>,
}

impl Budget {
    /// Charges a request at the time `now`, at most the whole budget. `debt_until` is the time at which the budget is
    /// full again. This method advances it if the request is admitted. Both times are in microseconds of the same
    /// clock.
    pub fn take(self, debt_until: &mut u64, now: u64, cost: u32) -> Taken {
        let owed = debt_until.saturating_sub(now);
        let after = owed.saturating_add(self.price(cost));
        let over = after.saturating_sub(self.capacity());
        if over > 0 {
            let denied = Some(Duration::from_micros(over));
            let remaining = self.whole(self.capacity().saturating_sub(owed));
            return Taken { remaining, full_in: Duration::from_micros(owed), denied };
        }
        *debt_until = now.saturating_add(after);
        let remaining = self.whole(self.capacity() - after);
        Taken { remaining, full_in: Duration::from_micros(after), denied: None }
    }

    /// Time that an empty budget takes to become full.
    pub fn refill(self) -> Duration {
        Duration::from_micros(self.capacity())
    }

    /// Refill time for the cost of a request, in microseconds. A request that costs more than the whole budget is
    /// admitted when the budget is full.
    pub fn price(self, cost: u32) -> u64 {
        u64::from(cost.clamp(1, self.burst)).saturating_mul(self.interval)
    }

    /// Number of requests that are refilled in a time, in microseconds.
    fn whole(self, micros: u64) -> u32 {
        u32::try_from(micros / self.interval).unwrap_or(u32::MAX)
    }

    fn capacity(self) -> u64 {
        u64::from(self.burst).saturating_mul(self.interval)
    }
}

/// The format is `{rate = "10/min", burst = 20}`.
impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            rate: Interval,
            burst: std::num::NonZeroU32,
        }
        let written = Written::deserialize(deserializer)?;
        Ok(Self { burst: written.burst.get(), interval: written.rate.0 })
    }
}

struct Interval(u64);

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        interval(&text).map(Self).ok_or_else(|| {
            D::Error::custom(
                "not a rate: write how many requests in a second, minute or hour, such as \"50/s\", \"10/min\" or \"100/h\"",
            )
        })
    }
}

fn interval(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once('/')?;
    let micros: u64 = match unit.trim() {
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    micros.checked_div(number.trim().parse().ok()?).filter(|interval| *interval > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_parsed_and_invalid_ones_refused() {
        let table = [
            ("50/s", Some(20_000)),
            ("10/min", Some(6_000_000)),
            (" 1 / h ", Some(3_600_000_000)),
            ("0/s", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("2000000/s", None),
            ("10", None),
            ("10/day", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(interval(text), expected, "{text}");
        }
    }

    #[test]
    fn a_burst_then_one_in_each_interval() {
        let budget = Budget { burst: 3, interval: 1000 };
        let mut debt = 0;
        let taken: Vec<u32> = (0..3).map(|_| budget.take(&mut debt, 5000, 1).remaining).collect();
        assert_eq!(taken, [2, 1, 0]);
        let micros = Duration::from_micros;
        let denied = budget.take(&mut debt, 5200, 1);
        assert_eq!(denied, Taken { remaining: 0, full_in: micros(2800), denied: Some(micros(800)) });
        // A refused client that returns after the reported delay is admitted, but not earlier.
        assert!(budget.take(&mut debt, 5999, 1).denied.is_some());
        assert_eq!(budget.take(&mut debt, 6000, 1).denied, None);
        assert!(budget.take(&mut debt, 6000, 1).denied.is_some());
        // A budget that is full again does not grow further.
        assert_eq!(budget.take(&mut debt, 100_000, 1).remaining, 2);
    }

    #[test]
    fn a_request_that_costs_more_takes_more_but_at_most_the_whole_budget() {
        let budget = Budget { burst: 10, interval: 1000 };
        let mut debt = 0;
        assert_eq!(budget.take(&mut debt, 0, 7).remaining, 3);
        let denied = budget.take(&mut debt, 0, 4);
        assert_eq!((denied.remaining, denied.denied), (3, Some(Duration::from_micros(1000))));
        assert_eq!(budget.take(&mut debt, 0, 3).remaining, 0);
        // A request that costs more than the whole budget is admitted when the budget is full.
        assert_eq!(budget.take(&mut debt, 9_999, 1_000_000).denied, Some(Duration::from_micros(1)));
        assert_eq!(budget.take(&mut debt, 10_000, 1_000_000).remaining, 0);
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        /// Any period admits at most the burst and the requests refilled in it, and never fewer than the budget allows.
        #[test]
        fn no_period_admits_more_than_burst_and_refill(
            burst in 1u32..20,
            interval in 1u64..5000,
            calls in proptest::collection::vec((0u64..8000, 1u32..20), 1..200),
        ) {
            let budget = Budget { burst, interval };
            let (mut debt, mut now) = (0, 1);
            let mut passed: Vec<(u64, u64)> = Vec::new();
            for (pause, cost) in calls {
                now += pause;
                let taken = budget.take(&mut debt, now, cost);
                if let Some(wait) = taken.denied {
                    let wait = u64::try_from(wait.as_micros()).unwrap();
                    let (mut early, mut later) = (debt, debt);
                    prop_assert!(budget.take(&mut later, now + wait, cost).denied.is_none());
                    prop_assert!(budget.take(&mut early, now + wait - 1, cost).denied.is_some());
                } else {
                    passed.push((now, u64::from(cost.min(burst))));
                    prop_assert!(taken.remaining < burst);
                    prop_assert!(taken.full_in <= budget.refill());
                }
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut taken = 0;
                for (to, cost) in &passed[first..] {
                    taken += cost;
                    prop_assert!(taken <= u64::from(burst) + (to - from) / interval);
                }
            }
        }
    }
}
