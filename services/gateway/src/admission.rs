//! Limits the number of concurrent requests, and shares them fairly among callers.
//!
//! A free place is given at once, up to a caller's share. Otherwise the request waits for a moment. A place that
//! becomes free goes to the waiting caller that holds the fewest places. If as many requests wait as there are places,
//! the caller with the most requests is refused.

mod places;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use souk_common::{
    contract::RateClass,
    error::{Problem, Reason},
    ids::UserId,
    quota::{Held, Quota},
};
use tokio::sync::oneshot;
use tonic::{Status, body::Body};

use self::places::{Entered, Places, Wish};
/// The caller that a request counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Caller {
    /// A signed-in user.
    User(UserId),
    /// An anonymous client, identified by its address.
    Address(IpAddr),
}

/// Assigns the places.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Mutex<Places<Caller, oneshot::Sender<Place>>>>,
    /// Number of places held and waited for, by address.
    addresses: Arc<Quota>,
    queue_timeout: Duration,
}

/// A place, and its part of the address's share, until it is dropped.
#[must_use = "dropping it gives the place back"]
pub struct Admitted {
    _place: Place,
    _of_address: Held,
}

/// A place that is returned when it is dropped.
struct Place {
    admission: Admission,
    caller: Caller,
}

impl Admitted {
    /// Keeps the place until the last byte of the response was sent.
    pub fn hold(self, response: Response<Body>) -> Response<Body> {
        response.map(|inner| Body::new(Holding { inner, _held: self }))
    }
}

impl Admission {
    /// Creates the limit with this number of places. One caller may hold at most `share` of them; 0 means half. All
    /// callers of one address together may hold or wait for three quarters. A request waits for at most
    /// `queue_timeout`.
    pub fn new(places: usize, share: usize, queue_timeout: Duration) -> Self {
        let share = if share == 0 { places.div_ceil(2) } else { share };
        let total = u64::try_from(places.saturating_mul(2)).unwrap_or(u64::MAX);
        let per_address = u64::try_from(places - places / 4).unwrap_or(u64::MAX);
        Self {
            places: Arc::new(Mutex::new(Places::new(places, share))),
            addresses: Quota::new(total, per_address),
            queue_timeout,
        }
    }

    /// Refuses a client whose address has reached its limit of running requests.
    ///
    /// # Errors
    /// `OVERLOADED` if the address is at its limit.
    pub fn refuse_crowd(&self, site: IpAddr) -> Result<(), Problem> {
        if self.addresses.has_room(site, 1) { Ok(()) } else { Err(full()) }
    }

    /// Gives a request a place, for its user if it has one, and otherwise for its address.
    ///
    /// # Errors
    /// `OVERLOADED` if no place becomes free in time.
    pub async fn admit(&self, site: IpAddr, user: Option<UserId>, class: RateClass) -> Result<Admitted, Problem> {
        let of_address = self.addresses.take(site, 1).ok_or_else(full)?;
        let place = self.enter(user.map_or(Caller::Address(site), Caller::User), class).await?;
        Ok(Admitted { _place: place, _of_address: of_address })
    }

    async fn enter(&self, caller: Caller, class: RateClass) -> Result<Place, Problem> {
        let (sender, receiver) = oneshot::channel();
        let entered = self.lock().enter(caller, rank(class), sender);
        match entered {
            Entered::At => Ok(Place { admission: self.clone(), caller }),
            Entered::Waiting(wish) => {
                let _waiting = Waiting { admission: self, caller, wish };
                if self.queue_timeout.is_zero() {
                    return Err(full());
                }
                let given = tokio::time::timeout(self.queue_timeout, receiver).await;
                given.ok().and_then(Result::ok).ok_or_else(full)
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
            // If the waiting caller has left, the send fails. That drops the place, which returns it.
            drop(sender.send(Self { admission: self.admission.clone(), caller }));
        }
    }
}

/// A body that keeps its place until it was sent or aborted.
struct Holding {
    inner: Body,
    _held: Admitted,
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The error if no place is free.
fn full() -> Problem {
    Problem::new(Reason::Overloaded, "the gateway has as much work as it can do: try again later")
}

/// A waiting request. Its drop ends the wait.
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

/// The order among callers that hold the same number of places: log-ins, then changes, then reads. A refused log-in or
/// change costs its user the most.
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
    async fn a_waiting_request_gets_a_free_place_or_is_refused_in_time() {
        let admission = Admission::new(1, 0, Duration::from_millis(100));
        let first = admission.enter(caller(1), RateClass::Read).await.unwrap();
        let started = tokio::time::Instant::now();
        let refused = admission.enter(caller(2), RateClass::Read).await.err().unwrap();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(started.elapsed() >= Duration::from_millis(100));
        // Polled in this order: the second request already waits when the first one returns its place.
        let (second, ()) = tokio::join!(biased; admission.enter(caller(2), RateClass::Read), async { drop(first) });
        // A request that stops waiting must not take a place.
        assert!(
            tokio::time::timeout(Duration::from_millis(10), admission.enter(caller(3), RateClass::Read)).await.is_err()
        );
        drop(second.unwrap());
        drop(admission.enter(caller(3), RateClass::Read).await.unwrap());
    }

    #[tokio::test]
    async fn without_a_queue_timeout_requests_are_refused_at_once() {
        let admission = Admission::new(4, 0, Duration::ZERO);
        let held =
            [admission.enter(caller(1), RateClass::Read).await, admission.enter(caller(1), RateClass::Read).await];
        let refused = admission.enter(caller(1), RateClass::Read).now_or_never();
        assert!(refused.expect("at once").is_err(), "half of the places are a caller's share");
        assert!(held.iter().all(Result::is_ok));
        drop(admission.enter(caller(2), RateClass::Read).await.unwrap());
    }
}
