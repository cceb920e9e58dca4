//! souk's users, log-in and tokens.
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

use souk_common::{
    auth::Verifier,
    contract::Contract,
    server::{Server, ServerError},
    service::SetupError,
};
use souk_proto::user::v1::{
    job_service_server::JobServiceServer, session_service_server::SessionServiceServer,
    user_service_server::UserServiceServer,
};
use souk_store::{
    db::DbError,
    jobs::{JobRpc, Jobs},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::{
    admin::{create_admin, ensure_admin, migrate, rotate_key},
    config::{Config, DEFAULTS},
};
use crate::{
    error::Error,
    hasher::Hasher,
    rpc::{Accounts, Rpc},
    tokens::Issuer,
};

/// Why the service could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its parts do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database cannot be used.
    #[error("the database of the user service cannot be used")]
    Database(#[from] DbError),
    /// It could not get its keys ready.
    #[error("the user service could not be made ready")]
    Start(#[from] Error),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Serves until `shutdown`: the one entry, for the program and for tests.
///
/// # Errors
/// Before anything is served, where the database or the contract cannot be used; later, where the listener fails.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let Config { common, settings } = config;
    let contract = Contract::souk().map_err(SetupError::from)?;
    let db = store::open(&settings.database, &common.data_dir).await?;
    tokens::ensure_key(&db).await?;
    let issuer = Issuer::new(db.clone(), &common.auth, settings.access_token_ttl);
    let verifier = Arc::new(Verifier::new(&common.auth, Arc::new(issuer.clone())));
    let hasher = Hasher::new(settings.hashing.cost().map_err(Error::from)?);
    let rpc = Rpc::new(db.clone(), hasher, issuer, &settings);

    // A token of its own: the jobs also stop where the server fails.
    let stop_jobs = shutdown.child_token();
    let jobs = Jobs::new("user", db.clone(), stop_jobs.clone());
    jobs::start(&jobs, &db, &settings);
    let ready = db.clone();
    let served = Server::new(&common.server, "user", contract, verifier)
        .rechecking(Arc::new(Accounts(db.clone())))
        .with(UserServiceServer::new(rpc.clone()))
        .with(SessionServiceServer::new(rpc))
        .with(JobServiceServer::new(JobRpc::new(jobs.clone())))
        .ready_while(move || {
            let db = ready.clone();
            async move { db.is_ready().await }
        })
        .serve(listener, shutdown)
        .await;
    stop_jobs.cancel();
    jobs.stopped().await;
    db.close();
    Ok(served?)
}
