//! Events: each change is recorded once, in order, and never lost.
//!
//! A change and its event are one transaction: a service appends events to a table of its own (`append`, an outbox).
//! Only what is committed gets a position in the service's [`Log`], one after the other without a gap, so anyone who
//! has read up to a position has missed nothing before it: a position is all a reader must keep, and continuing after
//! it is all it takes to read on after a break. Events about one subject have positions in the order in which its
//! changes were committed.
//!
//! Who reads it: streams to clients ([`Log::watch`]), gateways, consumers in the same database ([`Reader`]), and NATS
//! JetStream for everyone else ([`nats`]). Clients hold cursors, which show no position.

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

/// An event that is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Its id.
    pub id: EventId,
    /// What happened, such as `order.confirmed`.
    pub kind: &'static str,
    /// Resource name of what it happened to.
    pub subject: String,
    /// The user whose it is, who may watch it.
    pub owner: Option<UserId>,
    /// Full name of the message in `data`.
    pub data_type: String,
    /// What it happened to, as it was afterwards: an encoded message.
    pub data: Vec<u8>,
    /// When it happened.
    pub time: DateTime<Utc>,
}

impl Draft {
    /// Something happened to what `data` shows as it is now.
    #[must_use]
    pub fn new<M: Message + Name>(kind: &'static str, subject: String, data: &M, time: DateTime<Utc>) -> Self {
        let (data_type, data) = (M::full_name(), data.encode_to_vec());
        Self { id: EventId::new(), kind, subject, owner: None, data_type, data, time }
    }

    /// It happened to something of this user's.
    #[must_use]
    pub fn owned_by(self, owner: UserId) -> Self {
        Self { owner: Some(owner), ..self }
    }
}

/// An event in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log: 1, 2, 3, …
    pub position: i64,
    /// Its id.
    pub id: EventId,
    /// What happened, such as `order.confirmed`.
    pub kind: String,
    /// Resource name of what it happened to.
    pub subject: String,
    /// The user whose it is, where it is a user's.
    pub owner: Option<UserId>,
    /// Full name of the message in `data`.
    pub data_type: String,
    /// What it happened to, as it was afterwards: an encoded message.
    pub data: Bytes,
    /// When it happened.
    pub time: DateTime<Utc>,
}

impl Event {
    /// What it happened to, where that is such a message; `None` if it is another, or cannot be read.
    #[must_use]
    pub fn read<M: Message + Name + Default>(&self) -> Option<M> {
        (self.data_type == M::full_name()).then(|| M::decode(self.data.clone()).ok()).flatten()
    }

    /// When it happened, as a message.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.time)
    }
}

/// A time, as a message.
fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0);
    Timestamp { seconds: time.timestamp(), nanos }
}

/// Events, in their order.
pub type Events = Vec<Arc<Event>>;

/// Reads an owner's events after a position, in order, in either engine. Public for tests of how it is run.
#[doc(hidden)]
pub const AFTER_OF: &str = "SELECT position, id, kind, subject, owner_id, data_type, data, created_at
    FROM events WHERE owner_id = $1 AND position > $2 ORDER BY position LIMIT $3";
