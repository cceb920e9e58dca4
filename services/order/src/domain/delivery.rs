//! Webhook deliveries: an event for an endpoint, its tries, and the decision after each try.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use souk_common::ids::{EventId, WebhookDeliveryId, WebhookEndpointId};

/// The most tries that a delivery's log keeps.
pub const KEPT: usize = 20;
/// The longest pause that a receiver can ask for with `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3600);
/// The most by which a pause is extended at random, as a fraction. It spreads retries over time.
const JITTER: f64 = 0.1;

/// The delivery of an event to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The delivery's id.
    pub id: WebhookDeliveryId,
    /// The endpoint to post to.
    pub endpoint: WebhookEndpointId,
    /// The event's id: the same in every try, and at every endpoint.
    pub event: EventId,
    /// The event's type.
    pub kind: String,
    /// The resource name of the event's subject.
    pub subject: String,
    /// The event's position in the log.
    pub position: i64,
    /// The request body.
    pub body: String,
    /// The state of the delivery.
    pub state: State,
    /// The number of all tries so far.
    pub attempt_count: i32,
    /// The number of tries since the delivery was recorded or last requested again.
    pub tries: i32,
    /// The last [`KEPT`] tries.
    pub attempts: Vec<Attempt>,
    /// The HTTP status of the last response; 0 if there was none.
    pub last_code: i32,
    /// When the next try is due.
    pub due: Option<DateTime<Utc>>,
    /// When the delivery was recorded.
    pub create_time: DateTime<Utc>,
    /// When the delivery succeeded or failed permanently.
    pub settle_time: Option<DateTime<Utc>>,
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not delivered yet; it will be tried.
    Pending,
    /// The receiver accepted the event.
    Delivered,
    /// Failed permanently: it will not be tried again.
    Failed,
}

/// One try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When the try began.
    pub time: DateTime<Utc>,
    /// Duration of the try, in milliseconds.
    pub took_ms: u64,
    /// The HTTP status of the response; 0 if there was none.
    pub code: u16,
    /// Why the try failed; empty if it succeeded.
    pub error: String,
    /// The beginning of the response's body.
    pub excerpt: String,
}

impl Attempt {
    /// True if the receiver accepted the event.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// True if the receiver answered that it wants no more events.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code == 410
    }
}

/// The decision after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The delivery succeeded.
    Delivered,
    /// The next try is due at this time.
    Retry(DateTime<Utc>),
    /// The delivery failed permanently.
    Failed,
}

/// Decides what follows from a try that came after `tries` others, by the pauses of the schedule. `wish` is the pause
/// that the receiver asked for. `chance` is a random number from 0 to 1.
#[must_use]
pub fn judge(
    attempt: &Attempt,
    tries: i32,
    schedule: &[Duration],
    wish: Option<Duration>,
    chance: f64,
    now: DateTime<Utc>,
) -> Verdict {
    if attempt.is_success() {
        return Verdict::Delivered;
    }
    let pause = usize::try_from(tries).ok().and_then(|tries| schedule.get(tries));
    match pause {
        Some(pause) if !attempt.is_gone() => {
            let pause = pause.mul_f64(1.0 + JITTER * chance).max(wish.unwrap_or_default().min(LONGEST_PAUSE));
            Verdict::Retry(now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::days(1)))
        }
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SCHEDULE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

    fn answered(code: u16) -> Attempt {
        Attempt { time: DateTime::UNIX_EPOCH, took_ms: 1, code, error: String::new(), excerpt: String::new() }
    }

    fn verdict(code: u16, tries: i32, wish: Option<u64>, chance: f64) -> Verdict {
        let wish = wish.map(Duration::from_secs);
        judge(&answered(code), tries, &SCHEDULE, wish, chance, DateTime::UNIX_EPOCH)
    }

    fn after(milliseconds: i64) -> Verdict {
        Verdict::Retry(DateTime::from_timestamp_millis(milliseconds).unwrap())
    }

    #[test]
    fn only_2xx_responses_count_as_delivered() {
        for (code, expected) in [
            (200, Verdict::Delivered),
            (204, Verdict::Delivered),
            (299, Verdict::Delivered),
            (0, after(5_000)),
            (199, after(5_000)),
            (301, after(5_000)),
            (400, after(5_000)),
            (500, after(5_000)),
            (410, Verdict::Failed),
        ] {
            assert_eq!(verdict(code, 0, None, 0.0), expected, "{code}");
        }
    }

    #[test]
    fn pauses_follow_the_schedule_and_end_with_it() {
        assert_eq!(verdict(500, 1, None, 0.0), after(300_000));
        assert_eq!(verdict(500, 1, None, 1.0), after(330_000));
        assert_eq!(verdict(500, 2, None, 0.0), Verdict::Failed);
        assert_eq!(verdict(200, 2, None, 0.0), Verdict::Delivered);
    }

    #[test]
    fn a_receiver_may_request_longer_pauses_but_not_shorter_or_endless_ones() {
        assert_eq!(verdict(503, 0, Some(60), 0.0), after(60_000));
        assert_eq!(verdict(503, 1, Some(60), 0.0), after(300_000));
        assert_eq!(verdict(429, 0, Some(u64::MAX), 0.0), after(12 * 3600 * 1000));
    }
}
