//! Events: each change is recorded once, in order, and never lost.
//!
//! A change and its event are one transaction: a service appends events to a table of its own (`append`, an outbox).
//! Only committed events get a position in the service's [`Log`]. Positions have no gaps, so a reader that has read up
//! to a position has missed nothing before it. A reader stores only its position, and continues after it. Events of one
//! subject have positions in the order in which its changes were committed.
//!
//! The readers are streams to clients ([`Log::watch`]), gateways, consumers in the same database ([`Reader`]), and the
//! relay to NATS JetStream ([`nats`]). Clients get cursors, which reveal no position.

mod cursor;
mod dispatch;
mod letters;
mod log;
mod message;
pub mod nats;
pub mod postgres;
mod reader;
pub mod sqlite;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::{Message, Name};
use prost_types::Timestamp;

use souk_common::ids::{EventId, UserId};

pub use self::{
    letters::{DeadLetter, DeadLetters},
    log::{Log, Notifier, Settings},
    message::Responses,
    reader::{Checkpoint, Reader, Stuck},
    watch::{Begin, Step, WatchError},
};

/// An event before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The event's id.
    pub id: EventId,
    /// The event's type, such as `order.confirmed`.
    pub kind: &'static str,
    /// Resource name of what changed.
    pub subject: String,
    /// The user who owns the subject and may watch the event.
    pub owner: Option<UserId>,
    /// Full name of the message in `data`.
    pub data_type: String,
    /// The changed resource as it was after the change: an encoded message.
    pub data: Vec<u8>,
    /// Time of the change.
    pub time: DateTime<Utc>,
}

impl Draft {
    /// An event of a resource, with `data` as the resource's current state.
    #[must_use]
    pub fn new<M: Message + Name>(kind: &'static str, subject: String, data: &M, time: DateTime<Utc>) -> Self {
        let (data_type, data) = (M::full_name(), data.encode_to_vec());
        Self { id: EventId::new(), kind, subject, owner: None, data_type, data, time }
    }

    /// Sets the user who owns the subject.
    #[must_use]
    pub fn owned_by(self, owner: UserId) -> Self {
        Self { owner: Some(owner), ..self }
    }
}

/// An event in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's position in the log: 1, 2, 3, …
    pub position: i64,
    /// The event's id.
    pub id: EventId,
    /// The event's type, such as `order.confirmed`.
    pub kind: String,
    /// Resource name of what changed.
    pub subject: String,
    /// The user who owns the subject, if a user does.
    pub owner: Option<UserId>,
    /// Full name of the message in `data`.
    pub data_type: String,
    /// The changed resource as it was after the change: an encoded message.
    pub data: Bytes,
    /// Time of the change.
    pub time: DateTime<Utc>,
}

impl Event {
    /// Decodes `data`; `None` if it is a message of another type, or invalid.
    #[must_use]
    pub fn read<M: Message + Name + Default>(&self) -> Option<M> {
        (self.data_type == M::full_name()).then(|| M::decode(self.data.clone()).ok()).flatten()
    }

    /// Time of the change, as a message.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.time)
    }
}

/// Converts a time to a message.
fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0);
    Timestamp { seconds: time.timestamp(), nanos }
}

/// Events in order of their positions.
pub type Events = Vec<Arc<Event>>;

/// The query of an owner's events after a position, in order, for both engines. Public for tests of its query plan.
#[doc(hidden)]
pub const AFTER_OF: &str = "SELECT position, id, kind, subject, owner_id, data_type, data, created_at
    FROM events WHERE owner_id = $1 AND position > $2 ORDER BY position LIMIT $3";
