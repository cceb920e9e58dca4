//! Events as the contract's messages, and the streams of them that services offer each other.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use prost_types::{Any, Timestamp};
use souk_proto::common::v1::{self, WatchEventsRequest, WatchEventsResponse};
use tonic::Status;

use super::{Event, Log, Step};
use crate::error::Problem;

/// What `WatchEvents` answers with.
pub type Responses = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

impl Event {
    /// The event as a message; `source` is the service whose log it is in.
    #[must_use]
    pub fn message(&self, source: &str) -> v1::Event {
        v1::Event {
            id: self.id.to_string(),
            source: format!("services/{source}"),
            r#type: self.kind.clone(),
            subject: self.subject.clone(),
            time: Some(self.timestamp()),
            position: self.position,
            data: Some(Any { type_url: format!("type.googleapis.com/{}", self.data_type), value: self.data.to_vec() }),
        }
    }

    /// When it happened, as a message.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        let nanos = i32::try_from(self.time.timestamp_subsec_nanos()).unwrap_or(0);
        Timestamp { seconds: self.time.timestamp(), nanos }
    }
}

impl Log {
    /// Answers `WatchEvents`.
    ///
    /// # Errors
    /// Where there is nothing to go on from.
    pub async fn respond(&self, request: WatchEventsRequest) -> Result<Responses, Problem> {
        let (source, types, data_types) = (self.source(), request.types, request.data_types);
        let among = |these: &[String], this: &String| these.is_empty() || these.contains(this);
        let pick = move |event: Arc<Event>| {
            let wanted = among(&types, &event.kind) && among(&data_types, &event.data_type);
            wanted.then(|| event.message(source))
        };
        let steps = self.watch(&request.cursor, pick).await?;
        let response = |Step { position, found }| WatchEventsResponse { cursor: position.to_string(), event: found };
        Ok(Box::pin(steps.map(move |step| step.map(response))))
    }
}
