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

/// How long a stopping replica tries to release its leases.
const GIVE_UP: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    jobs: Arc<Inner>,
    /// When this replica last wrote.
    written: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(jobs: Arc<Inner>) -> Self {
        Self { jobs, written: None }
    }

    /// Runs until the last run has ended after shutdown.
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

    /// The time until the next look: a quarter of the lease, so that one is renewed before three quarters of it are
    /// over, and not the same in all replicas; less, where something waits to be written and the last look went well.
    fn pause(&self, well: bool) -> Duration {
        let look = (self.jobs.lease / 4).mul_f64(rand::random_range(0.8..=1.0));
        let waits = lock(&self.jobs.jobs).iter().any(|job| lock(&job.notes).unwritten.urgent);
        match self.written {
            Some(written) if well && waits => look.min(WRITE_AT_MOST_EVERY.saturating_sub(written.elapsed())),
            _ => look,
        }
    }

    /// Looks at the table, and writes where something is due.
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
                // From before it was asked for: never longer than the database thinks.
                true => Held::Until(asked + self.jobs.lease),
                false => Held::Not,
            }
        });
        Ok(())
    }

    /// Whether something is to be written: a job more, a lease to take or to renew, runs.
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

    /// Writes down all runs, and what else there is to change.
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

/// Passes the table's state to each job. `held` decides for leased jobs.
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
            // Looked at with the turn in hand: a run that begins now says so before it takes the wish out of the turn.
            let trigger = record.triggered_at.filter(|_| record.triggered_at != lock(&job.notes).begun);
            let gained = held != Held::Not && !turn.held.now();
            if gained {
                // Another replica's last run counts.
                let wait = record.last_run_at.map_or(Duration::ZERO, |at| job.interval.saturating_sub(ago(at)));
                turn.due = Instant::now() + wait;
            }
            let changed = turn.held != held || turn.trigger != trigger;
            (turn.held, turn.trigger) = (held, trigger);
            changed
        });
    }
}
