//! Hashes passwords outside of the async threads. The number at a time is limited, because each hash uses a core and
//! megabytes of memory for a while.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    domain::password::{Cost, Hash, HashError, Password, Verdict},
    error::Error,
};

/// Hashes and checks passwords. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Hasher {
    cost: Cost,
    permits: Arc<Semaphore>,
}

impl Hasher {
    /// Hashes at this cost, on all cores but one. So a flood of log-ins leaves a core for other work.
    pub fn new(cost: Cost) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cost, permits: Arc::new(Semaphore::new((cores - 1).max(1))) }
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// If hashing fails because of a fault of the service.
    pub async fn hash(&self, password: Password) -> Result<Hash, Error> {
        self.run(move |cost| cost.hash(&password)).await
    }

    /// Checks a password. It takes the same time if the account has no password or does not exist (`None`).
    ///
    /// # Errors
    /// If hashing fails because of a fault of the service.
    pub async fn verify(&self, password: Password, hash: Option<Hash>) -> Result<Verdict, Error> {
        self.run(move |cost| cost.verify(&password, hash.as_ref())).await
    }

    async fn run<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Cost) -> Result<T, HashError> + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await.map_err(|error| Error::Hasher(error.into()))?;
        let cost = self.cost.clone();
        let work = move || {
            // Held until the work is done, even if the caller has left.
            let _permit = permit;
            work(&cost)
        };
        let result = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Hasher(error.into()))?;
        Ok(result?)
    }
}
