//! Sends each event to the watchers of its owner only. One reader of the log serves all of them, so that the cost of an
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

/// Events that wait for a stream to take them. One that falls further behind reads the log.
const WAITING: usize = 16;
/// The pause before the log is read again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Who watches whose events.
#[derive(Default)]
pub(super) struct Dispatch(Mutex<State>);

#[derive(Default)]
struct State {
    /// Events up to this position have been handed out.
    reached: i64,
    owners: HashMap<UserId, broadcast::Sender<Arc<Event>>>,
}

impl Dispatch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events before this position are not dispatched: nobody watches yet.
    pub(super) fn begin(&self, head: i64) {
        self.state().reached = head;
    }

    /// The position from which on events are to be read: `None` if there is nobody to hand them to.
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
                // If it fails, the last of them has just left.
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

/// Gets one owner's events.
pub(super) struct Subscription {
    log: Log,
    owner: UserId,
    /// `None` only while it is dropped.
    receiver: Option<broadcast::Receiver<Arc<Event>>>,
}

impl Subscription {
    /// To the events after the position that is told, too.
    pub(super) fn new(log: &Log, owner: UserId) -> (Self, i64) {
        let (receiver, reached) = log.dispatched().receiver(owner);
        (Self { log: log.clone(), owner, receiver: Some(receiver) }, reached)
    }

    pub(super) fn owner(&self) -> UserId {
        self.owner
    }

    /// The next event. `None`: some were missed.
    pub(super) async fn next(&mut self) -> Option<Arc<Event>> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await.ok(),
            None => None,
        }
    }

    /// Begins again after the position that is told.
    pub(super) fn renew(&mut self) -> i64 {
        let (receiver, reached) = self.log.dispatched().receiver(self.owner);
        self.receiver = Some(receiver);
        reached
    }

    /// The position up to which the owner's events were all taken. `None`: some wait to be.
    pub(super) fn taken_up_to(&self) -> Option<i64> {
        // In this order: what is handed out in between shows as waiting.
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
    /// Hands events out until the log stops.
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

    /// Whether there was anything to hand out.
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
