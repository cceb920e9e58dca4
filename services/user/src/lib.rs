//! The user service: accounts, log-in and tokens.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod admin;
pub mod config;
pub mod domain;
pub mod error;
pub mod hasher;
pub mod jobs;
mod rpc;
pub mod store;
pub mod tokens;

use std::sync::Arc;

use souk_common::auth::Verifier;
use souk_proto::user::v1::{
    job_service_server::JobServiceServer, session_service_server::SessionServiceServer,
    user_service_server::UserServiceServer,
};
pub use souk_store::service::ServeError;
use souk_store::{db::DbError, jobs::JobRpc, service::Service};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::{
    admin::{create_admin, ensure_admin, rotate_key},
    config::{Config, DEFAULTS},
};
use crate::{
    hasher::Hasher,
    rpc::{Accounts, Rpc},
    store::Store,
    tokens::Issuer,
};

/// Serves until `shutdown`. The program and the tests both use this function.
///
/// # Errors
/// Before it serves, if the database or the contract cannot be used; later, if the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, settings } = config;
    let service = Service::new("user", &common, shutdown)?;
    let store = Store::open(&settings.database, &common.data_dir).await.map_err(ServeError::database("user"))?;
    store.ensure_key().await.map_err(ServeError::own(NOT_READY))?;
    let issuer = Issuer::new(store.clone(), &common.auth, settings.access_token_ttl);
    let verifier = Arc::new(Verifier::new(&common.auth, Arc::new(issuer.clone())));
    let hasher = Hasher::new(settings.hashing.cost().map_err(ServeError::own(NOT_READY))?);
    let rpc = Rpc::new(store.clone(), hasher, issuer, &settings);

    let jobs = service.jobs(store.db());
    jobs::start(&jobs, &store, &settings);
    let server = service
        .server(verifier)
        .rechecking(Arc::new(Accounts(store.clone())))
        .with(UserServiceServer::new(rpc.clone()))
        .with(SessionServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())));
    let served = service.serve(server, store.db(), listener).await;
    jobs.stopped().await;
    store.db().close();
    served
}

const NOT_READY: &str = "the user service could not be made ready";

/// Brings the schema up to date.
///
/// # Errors
/// If the database cannot be used, or a migration fails.
pub async fn migrate(config: &Config) -> Result<(), DbError> {
    let store = Store::open(&config.settings.database, &config.common.data_dir).await?;
    store.db().close();
    Ok(())
}
