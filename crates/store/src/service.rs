//! Serves a service that has a database: what it needs to start, which tasks run beside its server, and in which order
//! everything stops.
//!
//! A service's `serve` creates the parts of the service. It ends in the same way in each service:
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
    /// The service's parts do not fit together.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The database cannot be used.
    #[error("the database of the {service} service cannot be used")]
    Database {
        /// The service, for example `order`.
        service: &'static str,
        /// The error of the database.
        source: DbError,
    },
    /// The configuration of NATS is invalid, so events cannot be published.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A part that only this service has cannot be used.
    #[error("{what}")]
    Own {
        /// The part that cannot be used, in words.
        what: &'static str,
        /// The cause.
        source: AnyError,
    },
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl ServeError {
    /// For `map_err`: converts an error of this service's database.
    pub fn database(service: &'static str) -> impl FnOnce(DbError) -> Self {
        move |source| Self::Database { service, source }
    }

    /// For `map_err`: converts an error of a part that only this service has.
    pub fn own<E: Into<AnyError>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Own { what, source: source.into() }
    }
}

/// A service before it is served.
pub struct Service {
    name: &'static str,
    common: Common,
    contract: &'static Arc<Contract>,
    shutdown: CancellationToken,
    stop: CancellationToken,
}

impl Service {
    /// A service with this name, for example `order`, which runs until `shutdown`.
    ///
    /// # Errors
    /// If the contract is invalid.
    pub fn new(name: &'static str, common: &Common, shutdown: CancellationToken) -> Result<Self, SetupError> {
        // A separate token: the tasks beside the server also stop if the server fails.
        let stop = shutdown.child_token();
        Ok(Self { name, common: common.clone(), contract: Contract::souk()?, shutdown, stop })
    }

    /// The contract of all services.
    pub fn contract(&self) -> &Arc<Contract> {
        self.contract
    }

    /// The token that is cancelled when the service stops serving.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// A verifier that checks callers' tokens with the keys of the user service. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the user service's address is invalid.
    pub fn verifier(&self, user_service: &client::Config) -> Result<Arc<Verifier>, SetupError> {
        Ok(self.common.verifier(user_service, self.contract, self.name)?)
    }

    /// A client of another service, which identifies itself as this service.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn client(&self, config: &client::Config) -> Result<Client, SetupError> {
        Ok(self.common.client(config, self.contract, self.name)?)
    }

    /// The service's list of jobs, which is empty at first.
    pub fn jobs(&self, db: &Db) -> Jobs {
        Jobs::new(self.name, db.clone(), self.stop.clone())
    }

    /// Opens the service's event log. If NATS is configured, the log is also published there.
    ///
    /// # Errors
    /// If the database fails, or the configuration of NATS is invalid.
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

    /// The service's server, which has no services yet.
    pub fn server(&self, verifier: Arc<Verifier>) -> Server {
        Server::new(&self.common.server, self.name, self.contract, verifier)
    }

    /// Serves until shutdown. Reports ready while the database is ready. At the end it tells the tasks beside the
    /// server to stop, but does not wait for them.
    ///
    /// # Errors
    /// Before anything is served, if a method has no access rule or the certificate is invalid; later, if the listener
    /// fails.
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
