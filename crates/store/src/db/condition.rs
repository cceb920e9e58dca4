//! The state of a database as its users have seen it: which connections are unusable, and whether it accepts writes.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool::managed::Metrics;

use super::{Config, DbError, Trouble};

/// The state that all users of one database share.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// Maximum age of a connection. Zero means no limit.
    max_age: Duration,
    /// Maximum idle time of a connection. Zero means no limit.
    max_idle: Duration,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Connections that were made before this time are not used again.
    retired: Option<Instant>,
    /// The reason why the last run that tried could not store anything.
    trouble: Option<Trouble>,
}

impl Condition {
    /// Takes the limits from the settings.
    pub fn of(config: &Config) -> Self {
        Self { max_age: config.max_connection_age, max_idle: config.max_idle_time, found: Mutex::default() }
    }

    /// The interval at which to look for connections that exceed a limit; `None` if there is no limit.
    pub fn look_every(&self) -> Option<Duration> {
        let shortest = [self.max_age, self.max_idle].into_iter().filter(|limit| !limit.is_zero()).min()?;
        Some((shortest / 4).clamp(Duration::from_millis(100), Duration::from_secs(30)))
    }

    /// Notes the error of a run. `writes` is true if the run was to write.
    pub fn note(&self, error: &DbError, writes: bool) {
        // If the body of a read tries to write, its error says nothing about the server.
        if error.is_of_the_connection() && (writes || error.trouble() != Some(Trouble::ReadOnly)) {
            self.retire();
        }
        if let Some(trouble) = error.trouble().filter(|trouble| writes && trouble.stops_writes()) {
            self.note_trouble(trouble);
        }
    }

    /// Retires all present connections: they are not used again once they are back in the pool. A server that ended one
    /// connection, became read-only, or changed under its prepared statements has most likely affected all of them.
    pub fn retire(&self) {
        self.found().retired = Some(Instant::now());
    }

    pub fn note_trouble(&self, trouble: Trouble) {
        self.found().trouble = Some(trouble);
    }

    /// The trouble that was noted last. This clears it: the caller then checks whether the trouble persists.
    pub fn take_trouble(&self) -> Option<Trouble> {
        self.found().trouble.take()
    }

    /// True if a connection from the pool may be used.
    pub fn is_fit(&self, metrics: &Metrics) -> bool {
        let retired = self.found().retired.is_some_and(|retired| metrics.created <= retired);
        !retired && !self.is_old(metrics)
    }

    /// True if a connection has exceeded its maximum age or idle time.
    pub fn is_old(&self, metrics: &Metrics) -> bool {
        let over = |limit: Duration, time: Duration| !limit.is_zero() && time >= limit;
        over(lifetime(self.max_age, metrics.created), metrics.age()) || over(self.max_idle, metrics.last_used())
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit, shortened by up to a quarter. It is always the same for one connection, and differs between connections,
/// so that connections that were made together are not closed together.
fn lifetime(limit: Duration, created: Instant) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(created);
    limit.mul_f64(1.0 - 0.25 * (hash % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(ago: u64, used: u64) -> Metrics {
        let now = Instant::now();
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        Metrics { created: before(ago), recycled: Some(before(used)), recycle_count: 1 }
    }

    #[test]
    fn connections_older_than_the_limit_are_retired() {
        let minute = Duration::from_secs(60);
        let condition = Condition { max_age: 10 * minute, max_idle: minute, ..Condition::default() };
        assert!(condition.is_fit(&made(400, 59)));
        assert!(!condition.is_fit(&made(400, 61)));
        assert!(!condition.is_fit(&made(601, 0)));
        // Connections are not closed all at once.
        let ages = (0..100).map(|age| lifetime(minute, made(age, 0).created));
        assert!(ages.clone().all(|age| age <= minute && age >= minute.mul_f64(0.75)));
        assert!(ages.clone().max().unwrap() - ages.min().unwrap() > minute / 8);
        let ageless = Condition::default();
        assert!(ageless.is_fit(&made(100_000, 100_000)));
    }

    #[test]
    fn connections_that_existed_when_one_failed_are_retired() {
        let condition = Condition::default();
        let before = made(5, 0);
        condition.note(&DbError::unavailable("full up"), true);
        condition.note(&DbError::read_only(), false);
        assert!(condition.is_fit(&before) && condition.take_trouble().is_none());
        condition.note(&DbError::read_only(), true);
        assert!(!condition.is_fit(&before));
        assert!(condition.is_fit(&Metrics::default()));
        assert_eq!(condition.take_trouble(), Some(Trouble::ReadOnly));
        assert_eq!(condition.take_trouble(), None);
    }
}
