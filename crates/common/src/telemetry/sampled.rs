//! Samples frequent log lines.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The minimum time between two lines of the same name.
const EVERY: Duration = Duration::from_secs(1);

/// Counts events by name and decides when a log line about them is due: at once for the first event, then at most one
/// line a second. A flood of refused requests must not become a flood of log lines. This is only for the log: metrics
/// count every event.
#[derive(Debug, Default)]
pub struct Sampled(Mutex<BTreeMap<&'static str, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// The number of events since the last line.
    count: u64,
    logged: Option<Instant>,
}

impl Sampled {
    /// Creates a sampler without any events.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Counts an event of this name. If a line is due, returns the number of events since the last line.
    pub fn count(&self, name: &'static str) -> Option<u64> {
        self.count_at(name, Instant::now())
    }

    fn count_at(&self, name: &'static str, now: Instant) -> Option<u64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(name).or_default();
        seen.count += 1;
        if seen.logged.is_some_and(|logged| now.saturating_duration_since(logged) < EVERY) {
            return None;
        }
        seen.logged = Some(now);
        Some(std::mem::take(&mut seen.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_logs_one_line_a_second_and_counts_each_event_once() {
        let sampled = Sampled::new();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let lines: Vec<u64> = (0..10_000).filter_map(|event| sampled.count_at("RATE_LIMITED", at(event / 4))).collect();
        assert_eq!(lines.len(), 3, "in 2.5 s: {lines:?}");
        assert_eq!(sampled.count_at("OVERLOADED", at(2500)), Some(1), "each name has a line of its own");
        let last = sampled.count_at("RATE_LIMITED", at(3500)).unwrap();
        assert_eq!(lines.iter().sum::<u64>() + last, 10_001);
    }
}
