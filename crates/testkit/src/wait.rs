//! Waits on a condition with a deadline, so that no test needs to sleep.

use std::panic::Location;
use std::time::{Duration, Instant};

/// The first pause between two checks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` holds. `what` completes the sentence "waited for …".
///
/// # Panics
/// If the condition does not hold at the deadline.
#[track_caller]
pub fn until<C>(deadline: Duration, what: &str, mut condition: C) -> impl Future<Output = ()>
where
    C: AsyncFnMut() -> bool,
{
    value(deadline, what, async move || condition().await.then_some(()))
}

/// Waits until `look` returns a value, and returns that. `what` completes the sentence "waited for …".
///
/// # Panics
/// If there is no value at the deadline.
#[track_caller]
pub fn value<T, L>(deadline: Duration, what: &str, mut look: L) -> impl Future<Output = T>
where
    L: AsyncFnMut() -> Option<T>,
{
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            // A check that hangs must not outlive the deadline, but there is always one check.
            let left = deadline.saturating_sub(start.elapsed()).max(FIRST_PAUSE);
            if let Ok(Some(found)) = tokio::time::timeout(left, look()).await {
                return found;
            }
            if start.elapsed() >= deadline {
                panic!("waited {deadline:?} for {what}, in vain (called at {caller})");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        until(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            looks == 3
        })
        .await;
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "for the moon, in vain")]
    async fn the_failure_names_what_was_waited_for() {
        until(Duration::from_millis(20), "the moon", async || false).await;
    }

    #[tokio::test]
    #[should_panic(expected = "for an answer, in vain")]
    async fn a_check_that_hangs_ends_at_the_deadline() {
        until(Duration::from_millis(20), "an answer", async || std::future::pending().await).await;
    }
}
