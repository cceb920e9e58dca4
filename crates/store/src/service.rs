//! How a service is served, the same for all that have a database: what it needs to begin, what runs beside its server,
//! and in which order all of it stops.
//!
//! A service's `serve` is a list of what it has. It ends the same way in each:
//!
//! ```ignore
//! let served = service.serve(server, store.db(), listener).await;
//! jobs.stopped().await;
//! log.stopped().await;
//! store.db().close();
//! served
//! ```

use std::sync::Arc;

use souk_common::{
    auth::Verifier,
    client::{self, Client},
    contract::Contract,
    server::{Server, ServerError},
    service::{Common, SetupError},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Db, DbError},
    events::{
        self, Log, Notifier,
        nats::{self, NatsError},
    },
    jobs::Jobs,
};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Why a service could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its parts do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database cannot be used.
    #[error("the database of the {service} service cannot be used")]
    Database {
        /// The service, for example `order`.
        service: &'static str,
        /// What the database says.
        source: DbError,
    },
    /// Events cannot be published as configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Something that only this service has cannot be used.
    #[error("{what}")]
    Own {
        /// What cannot be used, in words.
        what: &'static str,
        /// Why.
        source: AnyError,
    },
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl ServeError {
    /// For `map_err`: the database of this service cannot be used.
    pub fn database(service: &'static str) -> impl FnOnce(DbError) -> Self {
        move |source| Self::Database { service, source }
    }

    /// For `map_err`: something that only this service has cannot be used.
    pub fn own<E: Into<AnyError>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Own { what, source: source.into() }
    }
}

/// A service that is about to be served.
pub struct Service {
    name: &'static str,
    common: Common,
    contract: &'static Arc<Contract>,
    shutdown: CancellationToken,
    stop: CancellationToken,
}

impl Service {
    /// The service with this name, for example `order`, until `shutdown`.
    ///
    /// # Errors
    /// If the contract cannot be used.
    pub fn new(name: &'static str, common: &Common, shutdown: CancellationToken) -> Result<Self, SetupError> {
        // A token of its own: what runs beside the server stops also where the server fails.
        let stop = shutdown.child_token();
        Ok(Self { name, common: common.clone(), contract: Contract::souk()?, shutdown, stop })
    }

    /// The contract.
    pub fn contract(&self) -> &Arc<Contract> {
        self.contract
    }

    /// Cancelled when nothing is served any more.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Checks callers' tokens by the keys of the user service. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the user service's address is not one.
    pub fn verifier(&self, user_service: &client::Config) -> Result<Arc<Verifier>, SetupError> {
        Ok(self.common.verifier(user_service, self.contract, self.name)?)
    }

    /// A client of another service, in the name of this one.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn client(&self, config: &client::Config) -> Result<Client, SetupError> {
        Ok(self.common.client(config, self.contract, self.name)?)
    }

    /// Its jobs, none yet.
    pub fn jobs(&self, db: &Db) -> Jobs {
        Jobs::new(self.name, db.clone(), self.stop.clone())
    }

    /// Its event log, published to NATS where that is configured.
    ///
    /// # Errors
    /// If the database fails, or NATS cannot be used as configured.
    pub async fn log(
        &self,
        db: &Db,
        settings: &events::Settings,
        notifier: Notifier,
        nats: &nats::Settings,
    ) -> Result<Log, ServeError> {
        let log = Log::open(db, self.name, settings.clone(), notifier, self.stop.clone()).await;
        let log = log.map_err(ServeError::database(self.name))?;
        nats.publish(&log).await?;
        Ok(log)
    }

    /// Its server, without services yet.
    pub fn server(&self, verifier: Arc<Verifier>) -> Server {
        Server::new(&self.common.server, self.name, self.contract, verifier)
    }

    /// Serves until the shutdown, and reports ready while the database is. Then tells what runs beside the server to
    /// stop, and does not wait for it.
    ///
    /// # Errors
    /// Before anything is served, where a method has no access rule or the certificate cannot be used; later, where the
    /// listener fails.
    pub async fn serve(self, server: Server, db: &Db, listener: TcpListener) -> Result<(), ServeError> {
        let db = db.clone();
        let ready = move || {
            let db = db.clone();
            async move { db.is_ready().await }
        };
        let served = server.ready_while(ready).serve(listener, self.shutdown).await;
        self.stop.cancel();
        Ok(served?)
    }
}
