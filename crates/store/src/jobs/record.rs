//! A job's row in the database, and how a replica's own runs are added to it.

use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use diesel::Queryable;

/// A job's row. Times are the database's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable)]
pub struct Record {
    /// The job's name, for example `saga`.
    pub name: String,
    /// The replica that runs it; nobody where every replica does.
    pub holder: Option<String>,
    /// Until when it is the holder's.
    pub lease_until: Option<DateTime<Utc>>,
    /// When somebody asked for a run that has not ended yet.
    pub triggered_at: Option<DateTime<Utc>>,
    /// When the last run began.
    pub last_run_at: Option<DateTime<Utc>>,
    /// When a run last ended well.
    pub last_success_at: Option<DateTime<Utc>>,
    /// How long the last run took, in milliseconds.
    pub last_duration_ms: Option<i64>,
    /// Why the last run failed; `None` if it did not.
    pub last_error: Option<String>,
    /// Runs so far.
    pub runs: i64,
    /// Runs of them that failed.
    pub failures: i64,
    /// Things done so far, by what the runs reported.
    pub items: i64,
}

impl Record {
    /// Whether anyone may take its lease. Leases are given for as long as `length`: one that would last much longer was
    /// given before the clock was set back, and a replica that died must not keep it for as long as that was. Twice as long
    /// is left alone: the caller may have read the time before another instance took the lease.
    pub(super) fn is_free(&self, now: DateTime<Utc>, length: Duration) -> bool {
        let too_long = |left: TimeDelta| left.to_std().is_ok_and(|left| left > length.saturating_mul(2));
        self.lease_until.is_none_or(|until| until <= now || too_long(until - now))
    }

    /// Whether this replica holds its lease.
    pub(super) fn is_held_by(&self, replica: &str, now: DateTime<Utc>, length: Duration) -> bool {
        !self.is_free(now, length) && self.holder.as_deref() == Some(replica)
    }

    /// Gives it to a replica, or continues doing so.
    pub(super) fn lease(&mut self, replica: &str, until: DateTime<Utc>) {
        self.holder = Some(replica.to_owned());
        self.lease_until = Some(until);
    }

    /// Leaves it to anyone.
    pub(super) fn release(&mut self) {
        self.holder = None;
        self.lease_until = None;
    }
}

/// How a run went.
pub(super) struct Run {
    pub began: Instant,
    pub took: Duration,
    /// How many things it did, or why it failed.
    pub result: Result<u64, String>,
    /// What it was asked for by, if it did not come by itself.
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
    /// Whether someone waits to see it: it failed, works again after that, or was asked for.
    pub urgent: bool,
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Adds a run that ended now.
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

    /// Adds it to what the database knows.
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

    /// Takes out what was written down.
    pub(super) fn subtract(&mut self, written: &Self) {
        self.runs -= written.runs;
        self.failures -= written.failures;
        self.items = self.items.saturating_sub(written.items);
        self.urgent &= !self.is_empty();
    }
}

/// The time so long ago, to the microsecond, as it is stored.
fn before(now: DateTime<Utc>, ago: Duration) -> DateTime<Utc> {
    let ago = TimeDelta::from_std(ago).unwrap_or(TimeDelta::MAX);
    now.checked_sub_signed(ago).unwrap_or(now).trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_no_longer_than_it_was_given_for_however_the_clock_is_set() {
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
