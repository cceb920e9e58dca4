//! The inventory service: products, stock and reservations.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod config;
pub mod domain;
pub mod error;
mod events;
mod jobs;
mod rpc;
pub mod store;

use souk_common::{
    contract::Contract,
    server::{Server, ServerError},
    service::SetupError,
};
use souk_proto::inventory::v1::{
    event_service_server::EventServiceServer, job_service_server::JobServiceServer,
    location_service_server::LocationServiceServer, product_service_server::ProductServiceServer,
    reservation_service_server::ReservationServiceServer, stock_service_server::StockServiceServer,
};
use souk_store::{
    coalesce::{Coalescer, Limits},
    db::DbError,
    events::{Log, nats::NatsError},
    jobs::{JobRpc, Jobs},
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

/// Why the service could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its parts do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database cannot be used.
    #[error("the database of the inventory service cannot be used")]
    Database(#[from] DbError),
    /// Events cannot be published as configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Serves until `shutdown`: the one entry, for the program and for tests.
///
/// # Errors
/// Before anything is served, where the database or the contract cannot be used; later, where the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, nats, settings } = config;
    let contract = Contract::souk().map_err(SetupError::from)?;
    let verifier = common.verifier(&settings.clients.user, contract, "inventory").map_err(SetupError::from)?;
    let store = Store::open(&settings.database, &common.data_dir).await?;
    let changes =
        coalescer(&store, Limits { batch: settings.batch_size, queue: settings.queue_size, ..Limits::default() });
    // A token of its own: the jobs also stop where the server fails.
    let stop_jobs = shutdown.child_token();
    let log = Log::open(store.db(), "inventory", settings.events.clone(), store.notifier(), stop_jobs.clone()).await?;
    nats.publish(&log).await?;
    let rpc = Rpc::new(store.clone(), changes.clone(), log.clone(), contract.clone());

    let jobs = Jobs::new("inventory", store.db().clone(), stop_jobs.clone());
    jobs::start(&jobs, &store, &changes, &log, &settings);
    let ready = store.db().clone();
    let served = Server::new(&common.server, "inventory", contract, verifier)
        .with(ProductServiceServer::new(rpc.clone()))
        .with(LocationServiceServer::new(rpc.clone()))
        .with(StockServiceServer::new(rpc.clone()))
        .with(ReservationServiceServer::new(rpc.clone()))
        .with(EventServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())))
        .ready_while(move || {
            let db = ready.clone();
            async move { db.is_ready().await }
        })
        .serve(listener, shutdown)
        .await;
    stop_jobs.cancel();
    jobs.stopped().await;
    log.stopped().await;
    changes.drain().await;
    store.db().close();
    Ok(served?)
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
