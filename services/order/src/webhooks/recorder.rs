//! Records a delivery for each event and each endpoint that subscribes to it.

use std::{sync::Arc, time::Duration};

use chrono::SecondsFormat;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::json;
use souk_common::{contract::Contract, error::chain, service::SetupError};
use souk_store::events::{Checkpoint, Event, Events, Reader, Stuck};

use crate::{error::Error, store::webhooks::Webhooks as Store};

/// Waiting time before a batch, so that events of this time are recorded in one transaction. It is skipped if there are
/// very many events. Under load, orders need the commits more.
const GATHER: Duration = Duration::from_millis(100);
const VERY_MUCH: usize = 200;

/// The consumer's name.
pub(super) const NAME: &str = "webhooks";

/// The consumer that reads the event log for webhooks.
pub(super) struct Recorder {
    store: Store,
    contract: &'static Arc<Contract>,
    give_up_after: Duration,
}

impl Recorder {
    pub(super) fn new(store: Store, give_up_after: Duration) -> Result<Self, SetupError> {
        Ok(Self { store, contract: Contract::souk().map_err(SetupError::from)?, give_up_after })
    }

    /// The request body for an event. Its resource has the form of the REST API.
    fn body(&self, event: &Event) -> Result<String, String> {
        // The event comes from a newer version of the service, whose replicas can record it.
        let unknown = || format!("{} has a type that this version does not know: {}", event.id, event.data_type);
        let descriptor = self.contract.pool().get_message_by_name(&event.data_type).ok_or_else(unknown)?;
        let data = DynamicMessage::decode(descriptor, event.data.clone()).map_err(|error| chain(&error))?;
        let options = SerializeOptions::new().skip_default_fields(false);
        let data =
            data.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| chain(&error))?;
        let timestamp = event.time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        Ok(json!({"type": event.kind, "timestamp": timestamp, "data": data}).to_string())
    }
}

impl Reader for Recorder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn give_up_after(&self) -> Duration {
        self.give_up_after
    }

    async fn act(&self, checkpoint: Checkpoint, events: &Events) -> Result<(), Stuck> {
        if events.len() < VERY_MUCH {
            tokio::time::sleep(GATHER).await;
        }
        let recorded = self.store.record(checkpoint, events, &|event| self.body(event)).await;
        recorded.map_err(|error| match error {
            Error::Event { position, why } => Stuck::Event { position, why },
            error => Stuck::Other(chain(&error)),
        })
    }
}
