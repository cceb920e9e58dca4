//! A job's row in the database, and how a replica adds the results of its own runs to it.

use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use diesel::Queryable;

/// A job's row. All times are by the database's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable)]
pub struct Record {
    /// The job's name, for example `saga`.
    pub name: String,
    /// The replica that holds the lease; `None` if every replica runs the job.
    pub holder: Option<String>,
    /// When the lease ends.
    pub lease_until: Option<DateTime<Utc>>,
    /// When a run was requested that has not ended yet.
    pub triggered_at: Option<DateTime<Utc>>,
    /// When the last run began.
    pub last_run_at: Option<DateTime<Utc>>,
    /// When a run last succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Duration of the last run, in milliseconds.
    pub last_duration_ms: Option<i64>,
    /// Why the last run failed; `None` if it succeeded.
    pub last_error: Option<String>,
    /// Number of runs so far.
    pub runs: i64,
    /// Number of runs that failed.
    pub failures: i64,
    /// Number of items processed so far, as the runs reported.
    pub items: i64,
}

impl Record {
    /// True if any replica may take the lease. A lease lasts for `length`. A lease that would last much longer was
    /// taken before the clock was set back; a replica that died must not keep it for that time. The limit is twice
    /// `length`, because the caller may have read the time before another replica took the lease.
    pub(super) fn is_free(&self, now: DateTime<Utc>, length: Duration) -> bool {
        let too_long = |left: TimeDelta| left.to_std().is_ok_and(|left| left > length.saturating_mul(2));
        self.lease_until.is_none_or(|until| until <= now || too_long(until - now))
    }

    /// True if this replica holds the lease.
    pub(super) fn is_held_by(&self, replica: &str, now: DateTime<Utc>, length: Duration) -> bool {
        !self.is_free(now, length) && self.holder.as_deref() == Some(replica)
    }

    /// Gives the lease to a replica, or renews it.
    pub(super) fn lease(&mut self, replica: &str, until: DateTime<Utc>) {
        self.holder = Some(replica.to_owned());
        self.lease_until = Some(until);
    }

    /// Releases the lease, so that any replica may take it.
    pub(super) fn release(&mut self) {
        self.holder = None;
        self.lease_until = None;
    }
}

/// The result of a run.
pub(super) struct Run {
    pub began: Instant,
    pub took: Duration,
    /// How many items it processed, or why it failed.
    pub result: Result<u64, String>,
    /// The time of the request for this run; `None` if the run was due by its interval.
    pub trigger: Option<DateTime<Utc>>,
}

/// The results of a replica's runs since it last recorded them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unwritten {
    runs: i64,
    failures: i64,
    items: i64,
    last: Option<(Instant, Duration, Option<String>)>,
    succeeded: Option<Instant>,
    answered: Option<DateTime<Utc>>,
    /// True if the results must be stored at once: a run failed, succeeded after a failure, or was requested.
    pub urgent: bool,
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Adds a run that has just ended.
    pub(super) fn add(&mut self, run: Run, failed_before: bool) {
        let Run { began, took, result, trigger } = run;
        self.runs += 1;
        self.urgent |= result.is_err() || failed_before || trigger.is_some();
        self.answered = trigger.or(self.answered);
        let error = match result {
            Ok(done) => {
                self.items = self.items.saturating_add(i64::try_from(done).unwrap_or(i64::MAX));
                self.succeeded = Some(Instant::now());
                None
            }
            Err(error) => {
                self.failures += 1;
                Some(error)
            }
        };
        self.last = Some((began, took, error));
    }

    /// Adds these results to the row in the database.
    pub(super) fn apply(&self, record: &mut Record, now: DateTime<Utc>) {
        let Some((began, took, error)) = self.last.as_ref().filter(|_| !self.is_empty()) else {
            return;
        };
        let at = |instant: Instant| before(now, instant.elapsed());
        record.runs = record.runs.saturating_add(self.runs);
        record.failures = record.failures.saturating_add(self.failures);
        record.items = record.items.saturating_add(self.items);
        record.last_run_at = Some(at(*began)).max(record.last_run_at);
        record.last_success_at = self.succeeded.map(at).max(record.last_success_at);
        record.last_duration_ms = i64::try_from(took.as_millis()).ok();
        record.last_error.clone_from(error);
        if record.triggered_at.is_some() && record.triggered_at == self.answered {
            record.triggered_at = None;
        }
    }

    /// Removes the results that were stored.
    pub(super) fn subtract(&mut self, written: &Self) {
        self.runs -= written.runs;
        self.failures -= written.failures;
        self.items = self.items.saturating_sub(written.items);
        self.urgent &= !self.is_empty();
    }
}

/// The time `ago` before `now`, truncated to the microsecond, as the database stores it.
fn before(now: DateTime<Utc>, ago: Duration) -> DateTime<Utc> {
    let ago = TimeDelta::from_std(ago).unwrap_or(TimeDelta::MAX);
    now.checked_sub_signed(ago).unwrap_or(now).trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_in_time_even_if_the_clock_is_set() {
        let (now, length) = (Utc::now().trunc_subsecs(6), Duration::from_secs(15));
        let mut record = Record::default();
        assert!(record.is_free(now, length));
        record.lease("one", now + length);
        let held = |seconds: i64| record.is_held_by("one", now + TimeDelta::seconds(seconds), length);
        assert!(held(0) && held(14) && !held(15), "as time goes by");
        assert!(!held(300), "the clock is set forward");
        assert!(held(-1) && !held(-16) && !held(-300), "the clock is set back");
        assert!(!record.is_held_by("another", now, length));
    }
}
