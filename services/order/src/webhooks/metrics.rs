//! The metrics of webhooks.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use crate::domain::{
    delivery::{Attempt, Verdict},
    endpoint::DisableReason,
};

/// The metrics `souk_webhook_attempts_total{outcome}`, `souk_webhook_attempt_duration_seconds`, and
/// `souk_webhook_endpoints_disabled_total{reason}`.
pub(super) struct Metrics {
    attempts: Counter<u64>,
    duration: Histogram<f64>,
    disabled: Counter<u64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = opentelemetry::global::meter("souk");
        let metrics = Self {
            attempts: meter
                .u64_counter("souk.webhook.attempts")
                .with_description("Tries to post events, by outcome")
                .build(),
            duration: meter
                .f64_histogram("souk.webhook.attempt.duration")
                .with_unit("s")
                .with_description("How long endpoints took to answer")
                .build(),
            disabled: meter
                .u64_counter("souk.webhook.endpoints.disabled")
                .with_description("Endpoints that were disabled because they do not take events, by reason")
                .build(),
        };
        // Registered with 0: Prometheus sees no increase if a counter's first value is 1.
        for reason in [DisableReason::Gone, DisableReason::Failing] {
            metrics.disabled.add(0, &[KeyValue::new("reason", word(reason))]);
        }
        metrics
    }

    pub(super) fn tried(&self, attempt: &Attempt, verdict: Verdict) {
        let outcome = match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry(_) => "retry",
            Verdict::Failed => "failed",
        };
        self.attempts.add(1, &[KeyValue::new("outcome", outcome)]);
        self.duration.record(Duration::from_millis(attempt.took_ms).as_secs_f64(), &[]);
    }

    pub(super) fn disabled(&self, reason: DisableReason) {
        self.disabled.add(1, &[KeyValue::new("reason", word(reason))]);
    }
}

/// The label of a reason in metrics and logs.
pub(super) const fn word(reason: DisableReason) -> &'static str {
    match reason {
        DisableReason::Administrator => "administrator",
        DisableReason::Gone => "gone",
        DisableReason::Failing => "failing",
    }
}
