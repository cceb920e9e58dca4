//! Keeps a replica's leases, starts its jobs, and records the results of their runs.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::error::chain;
use tokio::time::Instant;

use super::{
    Held, Inner, Job, WRITE_AT_MOST_EVERY, lock,
    record::{Record, Unwritten},
    store,
};
use crate::db::DbError;

/// The time in which a stopping replica tries to release its leases.
const GIVE_UP: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    jobs: Arc<Inner>,
    /// When this replica last wrote to the table.
    written: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(jobs: Arc<Inner>) -> Self {
        Self { jobs, written: None }
    }

    /// Runs until shutdown, and then until the last run has ended.
    pub(super) async fn keep(mut self) {
        let jobs = self.jobs.clone();
        let stopped = async {
            jobs.shutdown.cancelled().await;
            jobs.runners.close();
            jobs.runners.wait().await;
        };
        tokio::pin!(stopped);
        let mut well = true;
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = &mut stopped => break,
            };
            if let Err(error) = &looked
                && well
            {
                tracing::warn!(service = jobs.service, error = chain(error), "cannot reach the table of jobs");
            }
            well = looked.is_ok();
            tokio::select! {
                () = tokio::time::sleep(self.pause(well)) => {}
                () = jobs.look.notified() => {}
                () = &mut stopped => break,
            }
        }
        match tokio::time::timeout(GIVE_UP, self.give_up()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(service = jobs.service, error = chain(&error), "cannot release job leases");
            }
            Err(_) => tracing::warn!(service = jobs.service, "job leases not released in time"),
        }
    }

    /// The time until the next look at the table: at most a quarter of the lease, so that a lease is renewed before
    /// three quarters of it are over. It is random, so that replicas do not look at the same time. It is shorter if
    /// results wait to be stored and the last look succeeded (`well`).
    fn pause(&self, well: bool) -> Duration {
        let look = (self.jobs.lease / 4).mul_f64(rand::random_range(0.8..=1.0));
        let waits = lock(&self.jobs.jobs).iter().any(|job| lock(&job.notes).unwritten.urgent);
        match self.written {
            Some(written) if well && waits => look.min(WRITE_AT_MOST_EVERY.saturating_sub(written.elapsed())),
            _ => look,
        }
    }

    /// Reads the table, and writes if something is due.
    async fn look(&mut self) -> Result<(), DbError> {
        let jobs = lock(&self.jobs.jobs).clone();
        let names: Vec<_> = jobs.iter().map(|job| job.name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let (now, records) = store::read(&self.jobs.db, &names).await?;
        if !self.due(&jobs, &records, now) {
            take_turns(&jobs, &records, now, |job, record| match job.turn.borrow().held {
                Held::Until(end) if record.is_held_by(&self.jobs.replica, now, self.jobs.lease) => Held::Until(end),
                _ => Held::Not,
            });
            return Ok(());
        }
        let lease = TimeDelta::from_std(self.jobs.lease).unwrap_or(TimeDelta::MAX);
        let (now, records) = self
            .write(&jobs, |job, record, now| {
                if !job.everywhere
                    && (record.is_free(now, self.jobs.lease)
                        || record.is_held_by(&self.jobs.replica, now, self.jobs.lease))
                {
                    record.lease(&self.jobs.replica, now + lease);
                }
            })
            .await?;
        self.written = Some(Instant::now());
        take_turns(&jobs, &records, now, |_, record| {
            match record.is_held_by(&self.jobs.replica, now, self.jobs.lease) {
                // Counted from before the request, so this replica's lease never ends later than the database's.
                true => Held::Until(asked + self.jobs.lease),
                false => Held::Not,
            }
        });
        Ok(())
    }

    /// True if there is something to write: a new job, a lease to take or to renew, or results of runs.
    fn due(&self, jobs: &[Arc<Job>], records: &[Record], now: DateTime<Utc>) -> bool {
        let since = |limit: Duration| self.written.is_none_or(|written| written.elapsed() >= limit);
        jobs.iter().any(|job| {
            let Some(record) = records.iter().find(|record| record.name == job.name) else {
                return true;
            };
            let left = match job.turn.borrow().held {
                Held::Until(end) => end.saturating_duration_since(Instant::now()),
                _ => Duration::ZERO,
            };
            let held = record.is_held_by(&self.jobs.replica, now, self.jobs.lease);
            let lease = !job.everywhere && (record.is_free(now, self.jobs.lease) || held && left < self.jobs.lease / 2);
            let unwritten = &lock(&job.notes).unwritten;
            let runs = !unwritten.is_empty() && since(self.jobs.lease / 2);
            lease || runs || unwritten.urgent && since(WRITE_AT_MOST_EVERY)
        })
    }

    /// Stores the results of all runs, and all other changes.
    async fn write(
        &self,
        jobs: &[Arc<Job>],
        change: impl Fn(&Job, &mut Record, DateTime<Utc>) + Sync,
    ) -> Result<(DateTime<Utc>, Vec<Record>), DbError> {
        let writing: Vec<(&Job, Unwritten)> =
            jobs.iter().map(|job| (&**job, lock(&job.notes).unwritten.clone())).collect();
        let names: Vec<_> = jobs.iter().map(|job| job.name).collect();
        let written = store::change(&self.jobs.db, &names, |record, now| {
            if let Some((job, unwritten)) = writing.iter().find(|(job, _)| job.name == record.name) {
                unwritten.apply(record, now);
                change(job, record, now);
            }
        })
        .await?;
        for (job, unwritten) in &writing {
            lock(&job.notes).unwritten.subtract(unwritten);
        }
        Ok(written)
    }

    async fn give_up(&self) -> Result<(), DbError> {
        let jobs = lock(&self.jobs.jobs).clone();
        if jobs.is_empty() {
            return Ok(());
        }
        let release = |_: &Job, record: &mut Record, now| {
            if record.is_held_by(&self.jobs.replica, now, self.jobs.lease) {
                record.release();
            }
        };
        self.write(&jobs, release).await.map(drop)
    }
}

/// Passes the table's state to each job. `held` decides whether this replica holds the lease of a leased job.
fn take_turns(jobs: &[Arc<Job>], records: &[Record], now: DateTime<Utc>, held: impl Fn(&Job, &Record) -> Held) {
    for job in jobs {
        let Some(record) = records.iter().find(|record| record.name == job.name) else {
            continue;
        };
        let held = if job.everywhere { Held::Always } else { held(job, record) };
        let ago = |at: DateTime<Utc>| (now - at).to_std().unwrap_or_default();
        if let Some(ago) = record.last_success_at.map(|at| now - at) {
            let mut notes = lock(&job.notes);
            notes.last_success = notes.last_success.max(Utc::now() - ago);
        }
        job.turn.send_if_modified(|turn| {
            // Read while the turn is locked: a run that begins now records the request as begun before it removes it
            // from the turn.
            let trigger = record.triggered_at.filter(|_| record.triggered_at != lock(&job.notes).begun);
            let gained = held != Held::Not && !turn.held.now();
            if gained {
                // The last run counts, even if another replica did it.
                let wait = record.last_run_at.map_or(Duration::ZERO, |at| job.interval.saturating_sub(ago(at)));
                turn.due = Instant::now() + wait;
            }
            let changed = turn.held != held || turn.trigger != trigger;
            (turn.held, turn.trigger) = (held, trigger);
            changed
        });
    }
}
