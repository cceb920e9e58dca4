//! How many requests are worked on at a time, and whose: no caller takes the gateway for itself.
//!
//! A place that is free is given at once, up to a caller's share. Who finds none waits for a moment, and a place that
//! falls free goes to the waiting caller who holds the fewest. When as many wait as there are places, who asks for
//! the most is refused.

mod places;

use std::{
    cell::RefCell,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use souk_common::{
    contract::RateClass,
    error::{OrProblem, Problem, Reason},
    ids::UserId,
};
use tokio::sync::oneshot;

use self::places::{Entered, Places, Wish};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Caller {
    /// Someone signed in.
    User(UserId),
    /// Someone else, by the address they come from.
    Address(IpAddr),
}

/// Gives out the places.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Mutex<Places<Caller, oneshot::Sender<Place>>>>,
    patience: Duration,
}

tokio::task_local! {
    static VISIT: Visit;
}

/// A request on its way through the gateway.
struct Visit {
    address: IpAddr,
    /// Given back when the request is answered.
    place: RefCell<Option<Place>>,
}

/// Answers a request from this address. The place that it is given meanwhile is its own until it is answered.
pub async fn visit<F: Future>(address: IpAddr, work: F) -> F::Output {
    VISIT.scope(Visit { address, place: RefCell::default() }, work).await
}

/// A place, until it is dropped.
#[must_use = "dropping it gives the place back"]
struct Place {
    admission: Admission,
    caller: Caller,
}

impl Admission {
    /// So many places, of which one caller may hold `share` at most; 0: half of them. Who waits does so for
    /// `patience`.
    pub fn new(places: usize, share: usize, patience: Duration) -> Self {
        let share = if share == 0 { places.div_ceil(2) } else { share };
        Self { places: Arc::new(Mutex::new(Places::new(places, share))), patience }
    }

    /// Gives the request under way a place: as its user's, else as its address's.
    ///
    /// # Errors
    /// `OVERLOADED`, where there is none, and none falls free soon; `INTERNAL` outside of [`visit`].
    pub async fn admit(&self, user: Option<UserId>, class: RateClass) -> Result<(), Problem> {
        let address = VISIT.try_with(|visit| visit.address).or_internal()?;
        let place = self.enter(user.map_or(Caller::Address(address), Caller::User), class).await?;
        VISIT.try_with(|visit| drop(visit.place.replace(Some(place)))).or_internal()
    }

    async fn enter(&self, caller: Caller, class: RateClass) -> Result<Place, Problem> {
        let (sender, receiver) = oneshot::channel();
        let entered = self.lock().enter(caller, rank(class), sender);
        match entered {
            Entered::At => Ok(Place { admission: self.clone(), caller }),
            Entered::Waiting(wish) => {
                let _waiting = Waiting { admission: self, caller, wish };
                if self.patience.is_zero() {
                    return Err(full());
                }
                let given = tokio::time::timeout(self.patience, receiver).await;
                given.ok().and_then(Result::ok).ok_or_else(|| full())
            }
            Entered::Refused => Err(full()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places<Caller, oneshot::Sender<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = self.admission.lock().leave(&self.caller);
        if let Some((caller, sender)) = next {
            // Who has left meanwhile gives the place back by not taking it.
            drop(sender.send(Self { admission: self.admission.clone(), caller }));
        }
    }
}

/// There is no place.
fn full() -> Problem {
    Problem::new(Reason::Overloaded, "the gateway has as much work as it can do: try again later")
}

/// One who waits, until it is dropped.
struct Waiting<'a> {
    admission: &'a Admission,
    caller: Caller,
    wish: Wish,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.lock().give_up(&self.caller, self.wish);
    }
}

/// Of callers who hold as many: a log-in before a change before a read, for what is refused of the first two costs
/// its user the most.
fn rank(class: RateClass) -> u8 {
    match class {
        RateClass::Auth => 0,
        RateClass::Write | RateClass::Unspecified => 1,
        RateClass::Read => 2,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn caller(last: u8) -> Caller {
        Caller::Address(IpAddr::from([10, 0, 0, last]))
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_falls_free_or_is_refused_in_time() {
        let admission = Admission::new(1, 0, Duration::from_millis(100));
        let first = admission.enter(caller(1), RateClass::Read).await.unwrap();
        let started = tokio::time::Instant::now();
        let refused = admission.enter(caller(2), RateClass::Read).await.err().unwrap();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(started.elapsed() >= Duration::from_millis(100));
        // Polled in this order: the second waits already when the first leaves.
        let (second, ()) = tokio::join!(biased; admission.enter(caller(2), RateClass::Read), async { drop(first) });
        // Who waits and leaves takes no place along.
        assert!(
            tokio::time::timeout(Duration::from_millis(10), admission.enter(caller(3), RateClass::Read)).await.is_err()
        );
        drop(second.unwrap());
        drop(admission.enter(caller(3), RateClass::Read).await.unwrap());
    }

    #[tokio::test]
    async fn without_patience_the_refusal_comes_at_once() {
        let admission = Admission::new(4, 0, Duration::ZERO);
        let held =
            [admission.enter(caller(1), RateClass::Read).await, admission.enter(caller(1), RateClass::Read).await];
        let refused = admission.enter(caller(1), RateClass::Read).now_or_never();
        assert!(refused.expect("at once").is_err(), "half of the places are a caller's share");
        assert!(held.iter().all(Result::is_ok));
        drop(admission.enter(caller(2), RateClass::Read).await.unwrap());
    }
}
