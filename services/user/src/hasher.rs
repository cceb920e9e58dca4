//! Hashes passwords off the async threads, and only so many at a time: each takes a core and megabytes for a while.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    domain::password::{Cost, Hash, HashError, Password, Verdict},
    error::Error,
};

/// Hashes and checks passwords. A clone shares the bound.
#[derive(Debug, Clone)]
pub struct Hasher {
    cost: Cost,
    permits: Arc<Semaphore>,
}

impl Hasher {
    /// At this cost, on all cores but one: a flood of log-ins leaves something for everything else.
    pub fn new(cost: Cost) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cost, permits: Arc::new(Semaphore::new((cores - 1).max(1))) }
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// Only faults of ours.
    pub async fn hash(&self, password: Password) -> Result<Hash, Error> {
        self.run(move |cost| cost.hash(&password)).await
    }

    /// Checks a password. Takes as long where the account has none or does not exist (`None`).
    ///
    /// # Errors
    /// Only faults of ours.
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
            // Held until the work is done, even where the caller has left.
            let _permit = permit;
            work(&cost)
        };
        let result = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Hasher(error.into()))?;
        Ok(result?)
    }
}
