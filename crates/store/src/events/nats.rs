//! Events in NATS JetStream, for clients that follow them without a connection to souk. Each service's log has a
//! stream, which contains every event of the log once and in order, and nothing else.
//!
//! Only a log's relay writes to its stream, and each message names the sequence that it must follow. So the server
//! refuses a message that was sent twice (by a relay whose answer was lost, or by two replicas), however long ago the
//! first one was. The difference between a sequence and its position is constant in a stream.

use std::{sync::Arc, time::Duration};

use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{
        self, Context,
        context::PublishErrorKind,
        message::PublishMessage,
        stream::{Config, DiscardPolicy},
    },
};
use chrono::SecondsFormat;
use serde::Deserialize;
use souk_common::{
    config::{self, ConfigError, Secret},
    error::chain,
    tls::{ClientSettings, TlsError},
};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{Checkpoint, Event, Events, Log, Reader, Stuck};

/// The section `[events]`, which is the same for every service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The URL of NATS. If it is empty, events are stored in the services' logs only. May contain a password.
    pub nats_url: Secret,
    /// The authorities that may sign NATS's certificate, and the client's own certificate. If any of this is set, or
    /// the URL begins with `tls://`, the connection requires TLS.
    #[serde(default)]
    pub nats_tls: ClientSettings,
}

/// Timeout of NATS's acknowledgement of a message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Name of the header with an event's position in its log.
pub const POSITION: &str = "ce-position";

/// The configuration of NATS is invalid.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The URL is invalid.
    #[error("events.nats_url cannot be used")]
    Url(#[source] async_nats::ConnectError),
    /// A certificate is invalid.
    #[error("events.nats_tls.{} cannot be used", .0.setting())]
    Tls(#[source] TlsError),
}

/// Publishes a log's events, beginning with the oldest.
pub struct Relay {
    log: Log,
    jetstream: Context,
    /// The end of the stream; `None` if it is not known.
    end: Mutex<Option<End>>,
}

/// The last message of a stream.
#[derive(Debug, Clone, Copy)]
struct End {
    sequence: u64,
    position: i64,
}

impl Settings {
    /// Reads the section `[events]`.
    ///
    /// # Errors
    /// If a setting is wrong: names it, and says what would be right.
    pub fn from_settings(settings: &config::Settings) -> Result<Self, ConfigError> {
        let own: Self = settings.section("events")?;
        own.nats_tls
            .pem()
            .map_err(|error| settings.fault(&format!("events.nats_tls.{}", error.setting()), chain(&error)))?;
        Ok(own)
    }

    /// If NATS is configured, publishes a log's events until the log stops. Does not wait for a connection.
    ///
    /// # Errors
    /// If the URL or a certificate is invalid.
    pub async fn publish(&self, log: &Log) -> Result<Option<JoinHandle<()>>, NatsError> {
        let url = self.nats_url.expose();
        if url.is_empty() {
            return Ok(None);
        }
        let mut options = ConnectOptions::new().name(format!("souk {}", log.source())).retry_on_initial_connect();
        if !self.nats_tls.is_empty() {
            // Read here once, so that an error is reported now and not at each attempt to connect.
            let pem = self.nats_tls.pem().map_err(NatsError::Tls)?;
            options = options.require_tls(true);
            if pem.ca.is_some() {
                options = options.add_root_certificates(self.nats_tls.ca.clone());
            }
            if pem.identity.is_some() {
                let (certificate, key) = (self.nats_tls.certificate.clone(), self.nats_tls.key.clone());
                options = options.add_client_certificate(certificate, key);
            }
        }
        let client = options.connect(url).await.map_err(NatsError::Url)?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(TIMEOUT);
        let relay = Relay { log: log.clone(), jetstream, end: Mutex::default() };
        Ok(Some(log.spawn(log.clone().serve(Arc::new(relay)))))
    }
}

/// The name of the stream of a service's events, for example `SOUK_ORDER`.
#[must_use]
pub fn stream(source: &str) -> String {
    format!("SOUK_{}", source.to_uppercase())
}

impl Reader for Relay {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn begins_with_the_oldest(&self) -> bool {
        true
    }

    async fn act(&self, checkpoint: Checkpoint, events: &Events) -> Result<(), Stuck> {
        let mut known = self.end.lock().await;
        let end = match *known {
            Some(end) => end,
            None => self.find_end(checkpoint).await?,
        };
        // The end of the stream is unknown until all messages are acknowledged.
        *known = None;
        // The messages are sent in order on one connection, and acknowledged in that order.
        let mut answers = Vec::new();
        for event in events.iter().filter(|event| event.position > end.position) {
            let sequence = end.sequence.saturating_add_signed(event.position - end.position);
            let message = self.message(event).expected_last_sequence(sequence - 1);
            let subject = format!("souk.{}.{}", self.log.source(), event.kind);
            answers.push(self.jetstream.send_publish(subject, message).await.map_err(failed)?);
        }
        for answer in answers {
            match answer.await {
                Ok(_) => {}
                // Another replica was faster. The next turn finds out how far it has come.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(last) = events.last() else { return Ok(()) };
        if last.position > end.position {
            let sequence = end.sequence.saturating_add_signed(last.position - end.position);
            *known = Some(End { sequence, position: last.position });
        } else {
            *known = Some(end);
        }
        if !self.log.advance(checkpoint, events).await? {
            *known = None;
        }
        Ok(())
    }
}

impl Relay {
    /// Finds the end of the stream. Creates the stream if it does not exist.
    async fn find_end(&self, checkpoint: Checkpoint) -> Result<End, Stuck> {
        let source = self.log.source();
        let config = Config {
            name: stream(source),
            subjects: vec![format!("souk.{source}.>")],
            max_age: self.log.retention(),
            discard: DiscardPolicy::Old,
            description: Some(format!("Events of souk's {source} service")),
            ..Config::default()
        };
        let stream = self.jetstream.get_or_create_stream(config).await.map_err(failed)?;
        let sequence = stream.cached_info().state.last_sequence;
        if stream.cached_info().state.messages == 0 {
            // The stream is empty, or all its messages have expired. Events up to the checkpoint were published.
            return Ok(End { sequence, position: checkpoint.position });
        }
        let last = stream.get_raw_message(sequence).await.map_err(failed)?;
        let position = last.headers.get(POSITION).and_then(|position| position.as_str().parse().ok());
        let position = position.ok_or_else(|| {
            Stuck::Other(format!("message {sequence} in {} is not ours", stream.cached_info().config.name))
        })?;
        Ok(End { sequence, position })
    }

    /// Encodes an event by the NATS binding of CloudEvents, in binary mode.
    fn message(&self, event: &Event) -> PublishMessage {
        let mut headers = HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-id", event.id.to_string());
        headers.insert("ce-source", format!("services/{}", self.log.source()));
        headers.insert("ce-type", event.kind.as_str());
        headers.insert("ce-subject", event.subject.as_str());
        headers.insert("ce-time", event.time.to_rfc3339_opts(SecondsFormat::Micros, true));
        headers.insert("ce-dataschema", event.data_type.as_str());
        headers.insert(POSITION, event.position.to_string());
        headers.insert("content-type", "application/protobuf");
        PublishMessage::build().payload(event.data.clone()).headers(headers).message_id(event.id.to_string())
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Stuck {
    Stuck::Other(souk_common::error::chain(&error))
}
