//! The event log in memory, and two readers of it: one that acts in the same database (as webhooks are recorded), one
//! that publishes to a stream (as NATS JetStream is fed). The rules are those of `souk_store::events`.

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

/// An event that was written.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Drawn from a sequence before the commit: neighbours are not committed in its order.
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
    /// Where the two readers are.
    pub inbox_checkpoint: i64,
    pub relay_checkpoint: i64,
    /// What the first one did, by position.
    pub inbox: Vec<Published>,
    /// What the second one did.
    pub stream: Vec<Published>,
}

/// Few, so that there are many turns.
const PAGE: usize = 3;

impl Log {
    pub fn append(&mut self, order: &Order, entries: &[Entry]) {
        for draft in events::drafts(order, entries) {
            self.drawn += 10;
            // Whoever changes an order holds its row, so its own events have numbers in order; others' mix.
            let before = self.events.iter().filter(|event| event.order == order.id).map(|event| event.number).max();
            let mixed = self.drawn + (self.drawn / 10 * 7919) % 37;
            let mut number = mixed.max(before.unwrap_or(0) + 1);
            while self.events.iter().any(|event| event.number == number) {
                number += 1;
            }
            self.events.push(Logged { number, position: None, id: draft.id, order: order.id, kind: draft.kind });
        }
    }

    /// Gives positions to what is committed.
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

    /// Whether all was read.
    pub fn is_read(&self) -> bool {
        self.events.iter().all(|event| event.position.is_some())
            && (self.inbox_checkpoint, self.relay_checkpoint) == (self.head, self.head)
    }
}

impl Wire {
    /// Places events, and acts on them in the same database.
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
        // Where the stream ends, as far as is known: how many messages, and the last one's position.
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
    /// Takes a message into the stream, where the one before it is the last. A message whose id is there counts as
    /// taken.
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
