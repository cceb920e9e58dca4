//! Metrics of background jobs.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use chrono::Utc;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter},
};

use super::{Job, lock};

type All = Mutex<Vec<Arc<Job>>>;

/// Metrics of this replica's runs: `souk_job_runs_total{job,outcome}`, `souk_job_items_total{job}`,
/// `souk_job_duration_seconds{job}` and `souk_job_last_success_timestamp_seconds{job}`. Metrics of each job:
/// `souk_job_lag_seconds{job}` and `souk_job_held{job}`.
pub(super) struct Metrics {
    runs: Counter<u64>,
    items: Counter<u64>,
    duration: Histogram<f64>,
    last_success: Gauge<f64>,
}

impl Metrics {
    pub(super) fn new(jobs: &Arc<All>, lease: Duration) -> Self {
        let meter = opentelemetry::global::meter("souk");
        observe(&meter, Arc::downgrade(jobs), lease);
        Self {
            runs: meter.u64_counter("souk.job.runs").with_description("Runs of background jobs, by outcome").build(),
            items: meter.u64_counter("souk.job.items").with_description("Things that background jobs did").build(),
            duration: meter
                .f64_histogram("souk.job.duration")
                .with_unit("s")
                .with_description("How long runs of background jobs took")
                .build(),
            last_success: meter
                .f64_gauge("souk.job.last_success_timestamp")
                .with_unit("s")
                .with_description("Unix time at which a run last ended well")
                .build(),
        }
    }

    pub(super) fn ran(&self, job: &'static str, took: Duration, result: &Result<u64, String>) {
        let outcome = if result.is_ok() { "ok" } else { "error" };
        self.runs.add(1, &[KeyValue::new("job", job), KeyValue::new("outcome", outcome)]);
        let job = [KeyValue::new("job", job)];
        self.duration.record(took.as_secs_f64(), &job);
        if let Ok(done) = result {
            self.items.add(*done, &job);
            self.last_success.record(Utc::now().timestamp_millis() as f64 / 1000.0, &job);
        }
    }
}

fn observe(meter: &Meter, jobs: Weak<All>, lease: Duration) {
    let all = jobs.clone();
    meter
        .f64_observable_gauge("souk.job.lag")
        .with_unit("s")
        .with_description(
            "By how much the last success of a background job, in any replica, is older than its interval",
        )
        .with_callback(move |observer| {
            for job in all.upgrade().iter().flat_map(|jobs| lock(jobs).clone()) {
                observer.observe(job.lag(lease).as_secs_f64(), &[KeyValue::new("job", job.name)]);
            }
        })
        .build();
    meter
        .i64_observable_gauge("souk.job.held")
        .with_description(
            "Whether this replica runs the background job: 1 if it holds its lease, or if all replicas run it",
        )
        .with_callback(move |observer| {
            for job in jobs.upgrade().iter().flat_map(|jobs| lock(jobs).clone()) {
                observer.observe(job.turn.borrow().held.now().into(), &[KeyValue::new("job", job.name)]);
            }
        })
        .build();
}

impl Job {
    /// The lag as this replica sees it. It learns of another replica's run up to one lease late, so one lease is
    /// subtracted.
    fn lag(&self, lease: Duration) -> Duration {
        let since = (Utc::now() - lock(&self.notes).last_success).to_std().unwrap_or_default();
        let late = if self.turn.borrow().held.now() { Duration::ZERO } else { lease };
        since.saturating_sub(self.interval).saturating_sub(late)
    }
}
