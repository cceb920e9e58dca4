//! What a dashboard shows of background jobs.

use std::time::Duration;

use chrono::Utc;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram},
};

/// `souk_job_runs_total{job,outcome}`, `souk_job_items_total{job}`, `souk_job_duration_seconds{job}` and
/// `souk_job_last_success_timestamp_seconds{job}`.
#[derive(Clone)]
pub(super) struct Metrics {
    runs: Counter<u64>,
    items: Counter<u64>,
    duration: Histogram<f64>,
    last_success: Gauge<f64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = opentelemetry::global::meter("souk");
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
