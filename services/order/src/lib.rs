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

use souk_proto::order::v1::{
    event_service_server::EventServiceServer, job_service_server::JobServiceServer,
    order_service_server::OrderServiceServer, payment_service_server::PaymentServiceServer,
    saga_service_server::SagaServiceServer, webhook_service_server::WebhookServiceServer,
};
pub use souk_store::service::ServeError;
use souk_store::{
    db::{Db, DbError},
    jobs::JobRpc,
    service::Service,
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

/// The least time for running sagas to end or release their leases when the service stops.
const LEAST_DRAIN: Duration = Duration::from_secs(1);

/// Serves until `shutdown`. The program and the tests both use this function.
///
/// # Errors
/// Before it serves, if the database or the contract cannot be used; later, if the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, nats, settings } = config;
    let service = Service::new("order", &common, shutdown)?;
    let verifier = service.verifier(&settings.clients.user)?;
    let inventory = Inventory::new(service.client(&settings.clients.inventory)?);
    let store = Store::open(&settings.database, &common.data_dir).await.map_err(ServeError::database("order"))?;
    let stripe = stripe(&settings.payment, store.db())?;
    let payments = match &stripe {
        Some(stripe) => stripe.clone(),
        None => simulated(&settings.payment, store.db()),
    };
    let sagas = Sagas::new(store.clone(), inventory.clone(), payments, settings.saga.clone());
    let log = service.log(store.db(), &settings.events, store.notifier(), &nats).await?;
    let rpc = Rpc::new(store.clone(), sagas.clone(), inventory, log.clone());

    let jobs = service.jobs(store.db());
    jobs::start(&jobs, &settings, &store, &sagas, &log, service.stop());
    if let Some(stripe) = &stripe {
        jobs::payments::start(&jobs, &settings.payment.stripe, &store, stripe);
    }
    let hooks = WebhookStore::new(store.db());
    let webhooks = Webhooks::start(&hooks, &settings.webhooks, &log, &jobs, service.stop()).await?;
    let server = service
        .server(verifier)
        .with(OrderServiceServer::new(rpc.clone()))
        .with(SagaServiceServer::new(rpc.clone()))
        .with(PaymentServiceServer::new(rpc.clone()))
        .with(EventServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())))
        .with(WebhookServiceServer::new(WebhookRpc::new(hooks, &settings.webhooks)));
    let served = service.serve(server, store.db(), listener).await;
    // All requests have ended by now. Their sagas continue without them.
    sagas.drain(LEAST_DRAIN).await;
    jobs.stopped().await;
    log.stopped().await;
    webhooks.stopped(LEAST_DRAIN).await;
    store.close().await;
    served
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
            let stripe = Stripe::new(db.clone(), settings.stripe.clone());
            Ok(Some(Arc::new(stripe.map_err(ServeError::own("the payment provider cannot be called"))?)))
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
