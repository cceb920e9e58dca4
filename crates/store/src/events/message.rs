//! Converts events to the messages of the contract, and implements the streams that services offer each other.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use prost_types::Any;
use souk_common::{
    error::{Problem, Reason},
    page,
};
use souk_proto::common::v1::{
    self, DeleteDeadLetterRequest, DeleteDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    RequeueDeadLetterRequest, WatchEventsRequest, WatchEventsResponse,
};
use tonic::Status;

use super::{Begin, DeadLetter, DeadLetters, Event, Log, Step, timestamp};

/// The response stream of `WatchEvents`.
pub type Responses = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

impl Event {
    /// The event as a message. `source` is the service that has the event in its log.
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
}

impl DeadLetter {
    fn message(&self) -> v1::DeadLetter {
        v1::DeadLetter {
            name: format!("services/{}/deadLetters/{}-{}", self.source, self.reader, self.event.position),
            reader: self.reader.clone(),
            event: Some(v1::Event { data: None, ..self.event.message(&self.source) }),
            data_type: self.event.data_type.clone(),
            try_count: self.tries,
            last_error: self.last_error.clone().unwrap_or_default(),
            first_try_time: self.first_tried.map(timestamp),
            last_try_time: self.last_tried.map(timestamp),
            create_time: Some(timestamp(self.set_aside)),
            requeue_time: self.requeued.map(timestamp),
        }
    }
}

/// Handlers of `EventService` for dead letters.
impl DeadLetters {
    /// Handles `ListDeadLetters`.
    ///
    /// # Errors
    /// If the parent is another service, the page token is wrong, or the database fails.
    pub async fn respond_list(&self, request: ListDeadLettersRequest) -> Result<ListDeadLettersResponse, Problem> {
        let parent = format!("services/{}", self.source());
        if request.parent != parent {
            return Err(Problem::invalid("parent", format!("must be {parent}: each service lists its own")));
        }
        let (query, size) = ("dead-letters", page::size(request.page_size));
        let after = page::decode(&request.page_token, &query)?;
        let found = self.list(after, size + 1).await?;
        let key = |letter: &DeadLetter| (letter.reader.clone(), letter.event.position);
        let (dead_letters, next_page_token) = page::cut(found, size, &query, key, |letter| letter.message());
        Ok(ListDeadLettersResponse { dead_letters, next_page_token })
    }

    /// Handles `RequeueDeadLetter`.
    ///
    /// # Errors
    /// If there is no such dead letter, or the database fails.
    pub async fn respond_requeue(&self, request: RequeueDeadLetterRequest) -> Result<v1::DeadLetter, Problem> {
        let requeued = match self.named(&request.name) {
            Some((reader, position)) => self.requeue(reader, position).await?,
            None => None,
        };
        requeued.map(|letter| letter.message()).ok_or_else(|| missing(request.name))
    }

    /// Handles `DeleteDeadLetter`.
    ///
    /// # Errors
    /// If there is no such dead letter, or the database fails.
    pub async fn respond_delete(&self, request: DeleteDeadLetterRequest) -> Result<DeleteDeadLetterResponse, Problem> {
        let gone = match self.named(&request.name) {
            Some((reader, position)) => self.discard(reader, position).await?,
            None => false,
        };
        if gone { Ok(DeleteDeadLetterResponse {}) } else { Err(missing(request.name)) }
    }

    /// The reader and the position in the resource name of a dead letter of this log.
    fn named<'a>(&self, name: &'a str) -> Option<(&'a str, i64)> {
        let own = name.strip_prefix("services/")?.strip_prefix(self.source())?.strip_prefix("/deadLetters/")?;
        let (reader, position) = own.rsplit_once('-')?;
        Some((reader, position.parse().ok()?))
    }
}

fn missing(name: String) -> Problem {
    Problem::new(
        Reason::ResourceNotFound,
        format!("{name} does not exist: it was processed, deleted, or never existed"),
    )
    .resource("souk/DeadLetter", name)
}

impl Log {
    /// Handles `WatchEvents`.
    ///
    /// # Errors
    /// If the stream cannot begin at the requested position.
    pub async fn respond(&self, request: WatchEventsRequest) -> Result<Responses, Problem> {
        let (source, types, data_types) = (self.source(), request.types, request.data_types);
        let among = |these: &[String], this: &String| these.is_empty() || these.contains(this);
        let pick = move |event: Arc<Event>| {
            let wanted = among(&types, &event.kind) && among(&data_types, &event.data_type);
            wanted.then(|| event.message(source))
        };
        let begin = match request.after_position {
            // A client that reconnects sends its cursor, which overrides the position in the URL.
            Some(position) if request.cursor.is_empty() => Begin::After(position),
            _ => Begin::Cursor(&request.cursor),
        };
        let steps = self.watch(begin, None, pick).await?;
        let response = |Step { cursor, found }| WatchEventsResponse { cursor, event: found };
        Ok(Box::pin(steps.map(move |step| step.map(response))))
    }
}
