//! Deliveries: an event on its way to an endpoint, its tries, and what follows from each.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use souk_common::ids::{EventId, WebhookDeliveryId, WebhookEndpointId};

/// So many tries are kept in the log.
pub const KEPT: usize = 20;
/// A receiver that asks to be spared (`Retry-After`) is spared so long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3600);
/// By how much a pause is made longer at random, so that not all come back at the same moment.
const JITTER: f64 = 0.1;

/// An event on its way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: WebhookDeliveryId,
    /// Where it goes.
    pub endpoint: WebhookEndpointId,
    /// The event: the same in every try, and at every endpoint.
    pub event: EventId,
    /// What happened.
    pub kind: String,
    /// Resource name of what it happened to.
    pub subject: String,
    /// The event's place in the log.
    pub position: i64,
    /// What is posted.
    pub body: String,
    /// How far it has come.
    pub state: State,
    /// Tries so far.
    pub attempt_count: i32,
    /// Tries since it was last asked for.
    pub tries: i32,
    /// The last [`KEPT`] of them.
    pub attempts: Vec<Attempt>,
    /// The HTTP status of the last answer; 0 where there was none.
    pub last_code: i32,
    /// When it is tried next.
    pub due: Option<DateTime<Utc>>,
    /// When it was recorded.
    pub create_time: DateTime<Utc>,
    /// When it was delivered or given up.
    pub settle_time: Option<DateTime<Utc>>,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is tried again.
    Pending,
    /// It has been taken.
    Delivered,
    /// It has been given up.
    Failed,
}

/// A try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub time: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The HTTP status of the answer; 0 where there was none.
    pub code: u16,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// How the answer's body begins.
    pub excerpt: String,
}

impl Attempt {
    /// Whether the receiver has taken it.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether the receiver wants nothing any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code == 410
    }
}

/// What follows from a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Delivered,
    /// It is tried again, from then on.
    Retry(DateTime<Utc>),
    /// It is given up.
    Failed,
}

/// Judges a try that came after `tries` others, by the pauses of the schedule. `wish` is how long the receiver asked to
/// be spared, `chance` a number from 0 to 1.
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
    fn only_answers_of_success_are_success() {
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
    fn a_receiver_may_ask_for_longer_pauses_but_not_for_shorter_or_endless_ones() {
        assert_eq!(verdict(503, 0, Some(60), 0.0), after(60_000));
        assert_eq!(verdict(503, 1, Some(60), 0.0), after(300_000));
        assert_eq!(verdict(429, 0, Some(u64::MAX), 0.0), after(12 * 3600 * 1000));
    }
}
