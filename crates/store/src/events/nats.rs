//! Events in NATS JetStream, for anyone who follows them without asking souk: a stream for each service's log, with
//! every event once, in the order of the log, and nothing else.
//!
//! Only a log's relay writes into its stream, and each message says after which one it must come; so a message that was
//! sent twice, by a relay whose answer was lost or by two replicas at a time, is refused by the server, however long ago
//! the first was. In the stream, sequences follow positions at a fixed distance.

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

/// `[events]`, the same for every service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where NATS is; empty: events are in the services' logs alone. May hold a password.
    pub nats_url: Secret,
    /// Whom NATS's certificate must be signed by, and what it is shown. If it says anything, or the URL begins with
    /// `tls://`, there is no connection without TLS.
    #[serde(default)]
    pub nats_tls: ClientSettings,
}

/// How long NATS may take to say that it has a message.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The header with an event's position in its log.
pub const POSITION: &str = "ce-position";

/// NATS cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The URL is not one.
    #[error("events.nats_url cannot be used")]
    Url(#[source] async_nats::ConnectError),
    /// A certificate cannot be used.
    #[error("events.nats_tls.{} cannot be used", .0.setting())]
    Tls(#[source] TlsError),
}

/// Publishes a log's events, from its oldest on.
pub struct Relay {
    log: Log,
    jetstream: Context,
    /// Where the stream ends, as far as is known.
    end: Mutex<Option<End>>,
}

/// The last message of a stream.
#[derive(Debug, Clone, Copy)]
struct End {
    sequence: u64,
    position: i64,
}

impl Settings {
    /// The section `[events]`.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what would be right.
    pub fn from_settings(settings: &config::Settings) -> Result<Self, ConfigError> {
        let own: Self = settings.section("events")?;
        own.nats_tls
            .pem()
            .map_err(|error| settings.fault(&format!("events.nats_tls.{}", error.setting()), chain(&error)))?;
        Ok(own)
    }

    /// Begins to publish a log's events, where it is configured so, until the log stops. Waits for no connection.
    ///
    /// # Errors
    /// If the URL is not one, or a certificate cannot be used.
    pub async fn publish(&self, log: &Log) -> Result<Option<JoinHandle<()>>, NatsError> {
        let url = self.nats_url.expose();
        if url.is_empty() {
            return Ok(None);
        }
        let mut options = ConnectOptions::new().name(format!("souk {}", log.source())).retry_on_initial_connect();
        if !self.nats_tls.is_empty() {
            // Read here once, so that what is wrong is said now and not at each attempt to connect.
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

/// The stream of a service's events: `SOUK_ORDER`.
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
        // Until all of it is there, what is there is not known.
        *known = None;
        // In order on one connection, and answered in that order.
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
                // Another replica was faster. The next turn looks how far it has come.
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
    /// Looks where the stream ends; makes it where it is not there.
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
            // Nothing yet, or all of it is too old to be kept: it was published up to the checkpoint.
            return Ok(End { sequence, position: checkpoint.position });
        }
        let last = stream.get_raw_message(sequence).await.map_err(failed)?;
        let position = last.headers.get(POSITION).and_then(|position| position.as_str().parse().ok());
        let position = position.ok_or_else(|| {
            Stuck::Other(format!("message {sequence} in {} is not ours", stream.cached_info().config.name))
        })?;
        Ok(End { sequence, position })
    }

    /// An event as CloudEvents' binding to NATS has it, in binary mode.
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
