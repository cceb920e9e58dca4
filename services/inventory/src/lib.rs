//! The inventory service: products, stock and reservations.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod config;
pub mod domain;
pub mod error;
mod events;
mod jobs;
mod rpc;
pub mod store;

use souk_proto::inventory::v1::{
    event_service_server::EventServiceServer, job_service_server::JobServiceServer,
    location_service_server::LocationServiceServer, product_service_server::ProductServiceServer,
    reservation_service_server::ReservationServiceServer, stock_service_server::StockServiceServer,
};
pub use souk_store::service::ServeError;
use souk_store::{
    coalesce::{Coalescer, Limits},
    db::DbError,
    jobs::JobRpc,
    service::Service,
    verify::Check,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::{
    config::{Config, DEFAULTS},
    store::verify::{Reservations, Reserved},
};
use crate::{
    domain::command::{Command, Reply},
    error::Error,
    rpc::Rpc,
    store::Store,
};

/// The batch writer of stock changes.
pub(crate) type StockChanges = Coalescer<Command, Reply, Error>;

/// Serves until `shutdown`. The program and the tests both use this function.
///
/// # Errors
/// Before it serves, if the database or the contract cannot be used; later, if the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, nats, settings } = config;
    let service = Service::new("inventory", &common, shutdown)?;
    let verifier = service.verifier(&settings.clients.user)?;
    let store = Store::open(&settings.database, &common.data_dir).await.map_err(ServeError::database("inventory"))?;
    let changes =
        coalescer(&store, Limits { batch: settings.batch_size, queue: settings.queue_size, ..Limits::default() });
    let log = service.log(store.db(), &settings.events, store.notifier(), &nats).await?;
    let rpc = Rpc::new(store.clone(), changes.clone(), log.clone(), service.contract().clone());

    let jobs = service.jobs(store.db());
    jobs::start(&jobs, &store, &changes, &log, &settings);
    let server = service
        .server(verifier)
        .with(ProductServiceServer::new(rpc.clone()))
        .with(LocationServiceServer::new(rpc.clone()))
        .with(StockServiceServer::new(rpc.clone()))
        .with(ReservationServiceServer::new(rpc.clone()))
        .with(EventServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())));
    let served = service.serve(server, store.db(), listener).await;
    jobs.stopped().await;
    log.stopped().await;
    changes.drain().await;
    store.db().close();
    served
}

/// Brings the schema up to date.
///
/// # Errors
/// If the database cannot be used, or a migration fails.
pub async fn migrate(config: &Config) -> Result<(), DbError> {
    let store = Store::open(&config.settings.database, &config.common.data_dir).await?;
    store.db().close();
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

fn coalescer(store: &Store, limits: Limits) -> StockChanges {
    let store = store.clone();
    Coalescer::new("stock", limits, move |commands: Vec<Command>| {
        let store = store.clone();
        async move {
            let answers = store.run(&commands).await?;
            Ok(answers.into_iter().map(|answer| answer.map_err(Error::from)).collect())
        }
    })
}
