//! The order service: a saga places orders with stock and payment; orders can be cancelled and returned.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

mod clients;
pub mod config;
pub mod domain;
pub mod error;
mod events;
mod jobs;
mod payment;
mod rpc;
mod saga;
#[cfg(test)]
mod sim;
pub mod store;
mod webhooks;

use std::{sync::Arc, time::Duration};

use souk_common::{
    contract::Contract,
    server::{Server, ServerError},
    service::SetupError,
};
use souk_proto::order::v1::{
    event_service_server::EventServiceServer, job_service_server::JobServiceServer,
    order_service_server::OrderServiceServer, payment_service_server::PaymentServiceServer,
    saga_service_server::SagaServiceServer, webhook_service_server::WebhookServiceServer,
};
use souk_store::{
    db::{Db, DbError},
    events::{Log, nats::NatsError},
    jobs::{JobRpc, Jobs},
    verify::Check,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::config::{Config, DEFAULTS};
use crate::{
    clients::Inventory,
    config::ProviderKind,
    error::Error,
    payment::{Provider, Simulated, Stripe},
    rpc::{Rpc, WebhookRpc},
    saga::runner::Sagas,
    store::{Store, webhooks::Webhooks as WebhookStore},
    webhooks::Webhooks,
};

/// Why the service could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its parts do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database cannot be used.
    #[error("the database of the order service cannot be used")]
    Database(#[from] DbError),
    /// The payment provider cannot be called.
    #[error("the payment provider cannot be called")]
    Payments(#[source] reqwest::Error),
    /// Events cannot be published as configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The least time for running sagas to end or release their leases when the service stops.
const LEAST_DRAIN: Duration = Duration::from_secs(1);

/// Serves until `shutdown`: the one entry, for the program and for tests.
///
/// # Errors
/// Before anything is served, where the database or the contract cannot be used; later, where the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, nats, settings } = config;
    let contract = Contract::souk().map_err(SetupError::from)?;
    let verifier = common.verifier(&settings.clients.user, contract, "order").map_err(SetupError::from)?;
    let inventory = common.client(&settings.clients.inventory, contract, "order").map_err(SetupError::from)?;
    let inventory = Inventory::new(inventory);
    let store = Store::open(&settings.database, &common.data_dir).await?;
    let stripe = stripe(&settings.payment, store.db())?;
    let payments = match &stripe {
        Some(stripe) => stripe.clone(),
        None => simulated(&settings.payment, store.db()),
    };
    let sagas = Sagas::new(store.clone(), inventory.clone(), payments, settings.saga.clone());
    // A token of its own: the jobs also stop where the server fails.
    let stop_jobs = shutdown.child_token();
    let log = Log::open(store.db(), "order", settings.events.clone(), store.notifier(), stop_jobs.clone()).await?;
    nats.publish(&log).await?;
    let rpc = Rpc::new(store.clone(), sagas.clone(), inventory, log.clone());

    let jobs = Jobs::new("order", store.db().clone(), stop_jobs.clone());
    jobs::start(&jobs, &settings, &store, &sagas, &log, &stop_jobs);
    if let Some(stripe) = &stripe {
        jobs::payments::start(&jobs, &settings.payment.stripe, &store, stripe);
    }
    let hooks = WebhookStore::new(store.db());
    let webhooks = Webhooks::start(&hooks, &settings.webhooks, &log, &jobs, &stop_jobs).await?;
    let ready = store.db().clone();
    let served = Server::new(&common.server, "order", contract, verifier)
        .with(OrderServiceServer::new(rpc.clone()))
        .with(SagaServiceServer::new(rpc.clone()))
        .with(PaymentServiceServer::new(rpc.clone()))
        .with(EventServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())))
        .with(WebhookServiceServer::new(WebhookRpc::new(hooks, &settings.webhooks)))
        .ready_while(move || {
            let db = ready.clone();
            async move { db.is_ready().await }
        })
        .serve(listener, shutdown.clone())
        .await;
    stop_jobs.cancel();
    // Requests have ended by now; their sagas run on without them.
    sagas.drain(LEAST_DRAIN).await;
    jobs.stopped().await;
    log.stopped().await;
    webhooks.stopped(LEAST_DRAIN).await;
    store.close().await;
    Ok(served?)
}

/// Brings the schema up to date.
///
/// # Errors
/// If the database cannot be used, or a migration fails.
pub async fn migrate(config: &Config) -> Result<(), DbError> {
    let store = Store::open(&config.settings.database, &config.common.data_dir).await?;
    store.close().await;
    Ok(())
}

/// Checks the service's promises on the live database.
///
/// # Errors
/// If the database cannot be used.
pub async fn verify(config: &Config) -> Result<Vec<Check>, Error> {
    let db = Store::connect(&config.settings.database, &config.common.data_dir).await?;
    let checks = store::verify::verify(&db).await;
    db.close();
    checks
}

fn stripe(settings: &config::PaymentSettings, db: &Db) -> Result<Option<Arc<Stripe>>, ServeError> {
    match settings.provider {
        ProviderKind::Unchosen => {
            tracing::info!("payments are simulated: order.payment.provider is not set");
            Ok(None)
        }
        ProviderKind::Simulated => {
            tracing::warn!("payments are simulated: orders are confirmed without taking money");
            Ok(None)
        }
        ProviderKind::Stripe => {
            let stripe = Stripe::new(db.clone(), settings.stripe.clone()).map_err(ServeError::Payments)?;
            Ok(Some(Arc::new(stripe)))
        }
    }
}

fn simulated(settings: &config::PaymentSettings, db: &Db) -> Provider {
    Arc::new(Simulated::new(
        db.clone(),
        payment::simulated::Settings {
            slow_delay: settings.slow_delay,
            authorization_lifetime: settings.authorization_lifetime,
        },
    ))
}
