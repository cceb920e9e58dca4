//! Sends each event only to the watchers of its owner. One reader of the log serves all of them, so the cost of an
//! event does not grow with the number of watchers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use souk_common::{error::chain, ids::UserId};
use tokio::sync::broadcast;

use super::{Event, Log};
use crate::db::DbError;

/// The most events that wait for a stream to take them. A stream that falls further behind reads the log.
const WAITING: usize = 16;
/// The pause after a failure before the log is read again.
const RETRY: Duration = Duration::from_secs(1);

/// The watchers, by the owner of the events.
#[derive(Default)]
pub(super) struct Dispatch(Mutex<State>);

#[derive(Default)]
struct State {
    /// Events up to this position have been dispatched.
    reached: i64,
    owners: HashMap<UserId, broadcast::Sender<Arc<Event>>>,
}

impl Dispatch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts at the end of the log: nobody watches yet, so earlier events are not dispatched.
    pub(super) fn begin(&self, head: i64) {
        self.state().reached = head;
    }

    /// The position after which events must be read; `None` if nobody watches.
    fn next(&self, head: i64) -> Option<i64> {
        let mut state = self.state();
        if state.owners.is_empty() {
            state.reached = state.reached.max(head);
            return None;
        }
        Some(state.reached)
    }

    fn hand_out(&self, events: &[Arc<Event>]) {
        let mut state = self.state();
        for event in events {
            if let Some(watching) = event.owner.and_then(|owner| state.owners.get(&owner)) {
                // Sending fails if the last watcher has just left. That does no harm.
                let _ = watching.send(event.clone());
            }
            state.reached = event.position;
        }
    }

    fn receiver(&self, owner: UserId) -> (broadcast::Receiver<Arc<Event>>, i64) {
        let mut state = self.state();
        let reached = state.reached;
        let watching = state.owners.entry(owner).or_insert_with(|| broadcast::Sender::new(WAITING));
        (watching.subscribe(), reached)
    }
}

/// A subscription to one owner's events.
pub(super) struct Subscription {
    log: Log,
    owner: UserId,
    /// `None` only while the subscription is dropped.
    receiver: Option<broadcast::Receiver<Arc<Event>>>,
}

impl Subscription {
    /// Subscribes, and returns the position after which the subscription gets events.
    pub(super) fn new(log: &Log, owner: UserId) -> (Self, i64) {
        let (receiver, reached) = log.dispatched().receiver(owner);
        (Self { log: log.clone(), owner, receiver: Some(receiver) }, reached)
    }

    pub(super) fn owner(&self) -> UserId {
        self.owner
    }

    /// The next event; `None` if some were missed.
    pub(super) async fn next(&mut self) -> Option<Arc<Event>> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await.ok(),
            None => None,
        }
    }

    /// Subscribes again, and returns the position after which the subscription gets events.
    pub(super) fn renew(&mut self) -> i64 {
        let (receiver, reached) = self.log.dispatched().receiver(self.owner);
        self.receiver = Some(receiver);
        reached
    }

    /// The position up to which all of the owner's events were taken; `None` if some still wait.
    pub(super) fn taken_up_to(&self) -> Option<i64> {
        // The position is read first, so that an event that is dispatched in between counts as waiting.
        let reached = self.log.dispatched().state().reached;
        self.receiver.as_ref().is_some_and(broadcast::Receiver::is_empty).then_some(reached)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.log.dispatched().state();
        self.receiver = None;
        if state.owners.get(&self.owner).is_some_and(|watching| watching.receiver_count() == 0) {
            state.owners.remove(&self.owner);
        }
    }
}

impl Log {
    /// Dispatches events until the log stops.
    pub(super) async fn dispatch(self) {
        let mut growth = self.growth();
        loop {
            growth.mark_unchanged();
            let failed = match self.dispatch_page().await {
                Ok(true) => continue,
                Ok(false) => false,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot read new events; will retry");
                    true
                }
            };
            tokio::select! {
                () = self.stop().cancelled() => return,
                grown = growth.changed(), if !failed => if grown.is_err() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    /// Dispatches a page. Returns true if there was anything to dispatch.
    async fn dispatch_page(&self) -> Result<bool, DbError> {
        let head = self.head();
        let Some(position) = self.dispatched().next(head).filter(|position| *position < head) else {
            return Ok(false);
        };
        let events = self.after(position).await?;
        self.dispatched().hand_out(&events);
        Ok(!events.is_empty())
    }
}
