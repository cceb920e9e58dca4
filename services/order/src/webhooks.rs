//! Merchants' webhooks: events of orders, posted to the merchants' URLs and signed as [Standard
//! Webhooks](https://www.standardwebhooks.com) specifies.
//!
//! [`Recorder`] reads the service's event log and records a delivery for each event and each endpoint that gets it.
//! [`Dispatcher`] sends due deliveries until they succeed or have failed permanently. Each step is one transaction, so
//! nothing is lost, and each event reaches each endpoint at least once, with the same id.

pub(crate) mod address;
mod dispatcher;
mod metrics;
mod recorder;
mod sender;
pub mod settings;

use std::{sync::Arc, time::Duration};

use souk_common::error::chain;
use souk_store::{events::Log, jobs::Jobs};
use tokio_util::sync::CancellationToken;

use self::{dispatcher::Dispatcher, recorder::Recorder, sender::Sender, settings::Settings};
use crate::{
    ServeError,
    store::{ago, webhooks::Webhooks as Store},
};

/// The interval of the deletion of old deliveries.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);
/// The longest duration of a cleanup. It should end sooner; otherwise it is stopped and runs again.
const LIMIT: Duration = Duration::from_secs(300);

/// The recorder and the dispatcher of webhooks.
pub(crate) struct Webhooks {
    dispatcher: Dispatcher,
    recording: tokio::task::JoinHandle<()>,
}

impl Webhooks {
    /// Starts both, until `shutdown`, and the job that deletes old deliveries.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn start(
        store: &Store,
        settings: &Settings,
        log: &Log,
        jobs: &Jobs,
        shutdown: &CancellationToken,
    ) -> Result<Self, ServeError> {
        // Created before anyone can add an endpoint, so that a new endpoint gets every event from then on.
        log.checkpoint(recorder::NAME, false).await.map_err(ServeError::database("order"))?;
        let recorder = Recorder::new(store.clone(), settings.set_aside_after)?;
        let recording = tokio::spawn(log.clone().serve(Arc::new(recorder)));

        let dispatcher = Dispatcher::new(store.clone(), Sender::new(settings), settings.clone(), shutdown.clone());
        let sending = dispatcher.clone();
        // Runs on every replica: deliveries have leases of their own, and each replica skips deliveries that another
        // one is claiming (SKIP LOCKED). So all replicas share the work. A job lease would add a delay when its replica
        // dies.
        jobs.everywhere("webhooks", settings.interval, dispatcher::LIMIT, move || {
            let dispatcher = sending.clone();
            async move { dispatcher.run().await.map_err(|error| chain(&error)) }
        });

        let (store, retention) = (store.clone(), settings.retention);
        // Leased, because replicas that clean at the same time would only wait for each other's row locks.
        jobs.leased("webhook-cleanup", CLEAN_EVERY, LIMIT, move || {
            let store = store.clone();
            async move {
                let Some(before) = ago(retention) else { return Ok(0) };
                store.forget(before).await.map_err(|error| chain(&error))
            }
        });
        Ok(Self { dispatcher, recording })
    }

    /// Waits for running tries to end. Tries that run longer than `limit` are left to another replica, or to the next
    /// start.
    pub(crate) async fn stopped(self, limit: Duration) {
        self.dispatcher.drain(limit).await;
        let _ = self.recording.await;
    }
}
