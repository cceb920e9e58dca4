//! The event log in memory, and two consumers. One acts in the same database, as the webhook recorder does. The other
//! one publishes to a stream, as the relay to NATS JetStream does. The rules are those of `souk_store::events`.

use std::time::Duration;

use souk_common::ids::{EventId, OrderId};
use tokio::time::sleep;

use super::{
    wire::{Peer, Wire},
    world::{Planted, State},
};
use crate::{
    domain::{Entry, Order},
    events,
};

/// An event that was written to the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Drawn from a sequence before the commit. Concurrent transactions may commit in another order.
    number: i64,
    pub position: Option<i64>,
    pub id: EventId,
    pub order: OrderId,
    pub kind: &'static str,
}

/// A published message.
#[derive(Clone, Debug)]
pub struct Published {
    pub position: i64,
    pub order: OrderId,
    pub kind: &'static str,
    id: EventId,
}

#[derive(Default)]
pub struct Log {
    pub events: Vec<Logged>,
    drawn: i64,
    pub head: i64,
    /// The checkpoint of the consumer in the same database.
    pub inbox_checkpoint: i64,
    pub relay_checkpoint: i64,
    /// What that consumer recorded, by position.
    pub inbox: Vec<Published>,
    /// What the publishing consumer sent to the stream.
    pub stream: Vec<Published>,
}

/// Events in a page. The number is small, so that consumers read many pages.
const PAGE: usize = 3;

impl Log {
    pub fn append(&mut self, order: &Order, entries: &[Entry]) {
        for draft in events::drafts(order, entries) {
            self.drawn += 10;
            // A transaction that changes an order holds its row lock, so the order's own events have ascending numbers.
            // Events of different orders mix.
            let before = self.events.iter().filter(|event| event.order == order.id).map(|event| event.number).max();
            let mixed = self.drawn + (self.drawn / 10 * 7919) % 37;
            let mut number = mixed.max(before.unwrap_or(0) + 1);
            while self.events.iter().any(|event| event.number == number) {
                number += 1;
            }
            self.events.push(Logged { number, position: None, id: draft.id, order: order.id, kind: draft.kind });
        }
    }

    /// Assigns positions to committed events.
    fn place(&mut self) {
        let mut waiting: Vec<&mut Logged> = self.events.iter_mut().filter(|event| event.position.is_none()).collect();
        waiting.sort_by_key(|event| event.number);
        for event in waiting {
            self.head += 1;
            event.position = Some(self.head);
        }
    }

    fn after(&self, checkpoint: i64, by_number: bool) -> Vec<Published> {
        let place = |event: &Logged| if by_number { Some(event.number) } else { event.position };
        let mut page: Vec<Published> = self
            .events
            .iter()
            .filter_map(|event| {
                let position = place(event).filter(|position| *position > checkpoint)?;
                Some(Published { position, order: event.order, kind: event.kind, id: event.id })
            })
            .collect();
        page.sort_by_key(|event| event.position);
        page.truncate(PAGE);
        page
    }

    /// True if both consumers have read all events.
    pub fn is_read(&self) -> bool {
        self.events.iter().all(|event| event.position.is_some())
            && (self.inbox_checkpoint, self.relay_checkpoint) == (self.head, self.head)
    }
}

impl Wire {
    /// Assigns positions to events, and processes them in the same database.
    pub async fn record_events(self) {
        loop {
            let pause = self.world.state().dice.millis(500..4_000);
            sleep(pause).await;
            if !self.world.state().has_ended() {
                self.record_turn().await;
            }
        }
    }

    async fn record_turn(&self) -> Option<()> {
        let by_number = self.world.state().planted == Some(Planted::ReadByNumber);
        let waits = |state: &mut State| state.log.events.iter().any(|event| event.position.is_none());
        if self.call((Peer::Journal, "look for events"), (), waits).await? {
            self.call((Peer::Journal, "place events"), (), |state| state.log.place()).await?;
        }
        let checkpoint =
            self.call((Peer::Journal, "read a checkpoint"), (), |state| state.log.inbox_checkpoint).await?;
        let read = move |state: &mut State| state.log.after(checkpoint, by_number);
        let page = self.call((Peer::Journal, "read events"), checkpoint, read).await?;
        let Some(last) = page.last().map(|event| event.position) else { return Some(()) };
        let advance = move |state: &mut State| {
            let ours = state.log.inbox_checkpoint == checkpoint;
            if ours {
                state.log.inbox_checkpoint = last;
            }
            ours
        };
        if self.world.state().planted == Some(Planted::CheckpointFirst) {
            if self.call((Peer::Journal, "advance"), checkpoint, advance).await? {
                let act = move |state: &mut State| state.log.inbox.extend(page.clone());
                self.call((Peer::Journal, "act"), checkpoint, act).await?;
            }
            return Some(());
        }
        let act = move |state: &mut State| {
            let ours = advance(state);
            if ours {
                state.log.inbox.extend(page.clone());
            } else {
                state.count("somebody else had acted", "act");
            }
            ours
        };
        self.call((Peer::Journal, "act"), checkpoint, act).await.map(drop)
    }

    /// Publishes events.
    pub async fn publish_events(self) {
        // The known end of the stream: the number of messages, and the position of the last one.
        let mut end = None;
        loop {
            let pause = self.world.state().dice.millis(500..4_000);
            sleep(pause).await;
            if !self.world.state().has_ended() {
                self.publish_turn(&mut end).await;
            }
        }
    }

    async fn publish_turn(&self, known: &mut Option<(usize, i64)>) -> Option<()> {
        let checkpoint =
            self.call((Peer::Journal, "read a checkpoint"), (), |state| state.log.relay_checkpoint).await?;
        let read = move |state: &mut State| state.log.after(checkpoint, false);
        let page = self.call((Peer::Journal, "read events"), checkpoint, read).await?;
        let Some(last) = page.last().map(|event| event.position) else { return Some(()) };
        let end = match known.take() {
            Some(end) => end,
            None => {
                let find = move |state: &mut State| {
                    let stream = &state.log.stream;
                    (stream.len(), stream.last().map_or(checkpoint, |last| last.position))
                };
                self.patient(self.call((Peer::Stream, "find the end"), checkpoint, find)).await?
            }
        };
        let mut length = end.0;
        for event in page.into_iter().filter(|event| event.position > end.1) {
            let publish = move |state: &mut State| state.publish(length, event.clone());
            if !self.patient(self.call((Peer::Stream, "publish"), length, publish)).await? {
                self.world.state().count("another replica was faster", "publish");
                return Some(());
            }
            length += 1;
        }
        let advance = move |state: &mut State| {
            let ours = state.log.relay_checkpoint == checkpoint;
            if ours {
                state.log.relay_checkpoint = last;
            }
            ours
        };
        let ours = self.call((Peer::Journal, "advance"), checkpoint, advance).await?;
        *known = ours.then_some((length, last.max(end.1)));
        Some(())
    }

    async fn patient<T>(&self, call: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::time::timeout(Duration::from_secs(5), call).await.ok().flatten()
    }
}

impl State {
    /// Appends a message to the stream if the expected message is the last one. A message whose id is already in the
    /// stream counts as accepted.
    fn publish(&mut self, expected: usize, event: Published) -> bool {
        let stream = &mut self.log.stream;
        let blind = self.planted == Some(Planted::PublishBlindly);
        if stream.iter().any(|known| known.id == event.id) && !blind {
            return true;
        }
        if stream.len() != expected && !blind {
            return false;
        }
        stream.push(event);
        true
    }
}
