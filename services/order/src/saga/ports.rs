//! The ports of saga runners: a journal, stock, and the clock. Payment providers have their own trait.
//!
//! In production, these are the order service's database, the inventory service and the machine's clock. The simulation
//! by seeds (`crate::sim`) implements all of them in memory and injects faults.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use souk_common::ids::OrderId;
use uuid::Uuid;

use crate::{
    clients::{Inventory, Unanswered},
    domain::{Answer, Entry, Goods, Saga},
    error::Error,
    payment::Provider,
    store::{self, Lease, Release, Renewal, Store},
};

/// Stores sagas and their leases. [`Store`] documents each operation and its errors.
pub trait Journal: Send + Sync + 'static {
    /// See [`Store::save`].
    fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        renewal: Renewal,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// See [`Store::is_saved`].
    fn is_saved(&self, saga: &Saga) -> impl Future<Output = Result<bool, Error>> + Send;

    /// See [`Store::release`].
    fn release(&self, saga: &Saga, release: Release<'_>) -> impl Future<Output = Result<(), Error>> + Send;

    /// See [`Store::claim`].
    fn claim(&self, lease: Lease, limit: i64) -> impl Future<Output = Result<Vec<Saga>, Error>> + Send;
}

/// Reserves and commits stock. [`Inventory`] documents each operation.
pub trait Stock: Send + Sync + 'static {
    /// See [`Inventory::reserve`].
    fn reserve(
        &self,
        order: OrderId,
        goods: &[Goods],
        ttl: Duration,
    ) -> impl Future<Output = Result<Answer, Unanswered>> + Send;

    /// See [`Inventory::commit`].
    fn commit(&self, order: OrderId) -> impl Future<Output = Result<Answer, Unanswered>> + Send;

    /// See [`Inventory::release`].
    fn release(&self, order: OrderId) -> impl Future<Output = Result<Answer, Unanswered>> + Send;

    /// See [`Inventory::restock`].
    fn restock(
        &self,
        order: OrderId,
        key: String,
        goods: &[Goods],
    ) -> impl Future<Output = Result<Answer, Unanswered>> + Send;
}

/// The clock, and a source of randomness.
pub trait Clock: Send + Sync + 'static {
    /// The current time, in the precision of the journal.
    fn now(&self) -> DateTime<Utc>;

    /// A number for a lease, unique among all runners.
    fn lease_number(&self) -> i64;

    /// A random pause from half of `pause` to all of it, so that failed runners do not retry at the same time.
    fn jittered(&self, pause: Duration) -> Duration;
}

/// The dependencies of a saga runner.
pub struct Ports<J, S> {
    /// Stores sagas.
    pub journal: J,
    /// Reserves goods.
    pub stock: S,
    /// The payment provider.
    pub payments: Provider,
    /// The clock.
    pub clock: Box<dyn Clock>,
}

/// The machine's clock and random numbers.
pub struct System;

impl Clock for System {
    fn now(&self) -> DateTime<Utc> {
        store::now()
    }

    fn lease_number(&self) -> i64 {
        // Half of a random UUID.
        let (number, _) = Uuid::new_v4().as_u64_pair();
        i64::from_be_bytes(number.to_be_bytes())
    }

    fn jittered(&self, pause: Duration) -> Duration {
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl Journal for Store {
    async fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        renewal: Renewal,
    ) -> Result<bool, Error> {
        self.save(before, after, entries, response, renewal).await
    }

    async fn is_saved(&self, saga: &Saga) -> Result<bool, Error> {
        self.is_saved(saga).await
    }

    async fn release(&self, saga: &Saga, release: Release<'_>) -> Result<(), Error> {
        self.release(saga, release).await
    }

    async fn claim(&self, lease: Lease, limit: i64) -> Result<Vec<Saga>, Error> {
        self.claim(lease, limit).await
    }
}

impl Stock for Inventory {
    async fn reserve(&self, order: OrderId, goods: &[Goods], ttl: Duration) -> Result<Answer, Unanswered> {
        self.reserve(order, goods, ttl).await
    }

    async fn commit(&self, order: OrderId) -> Result<Answer, Unanswered> {
        self.commit(order).await
    }

    async fn release(&self, order: OrderId) -> Result<Answer, Unanswered> {
        self.release(order).await
    }

    async fn restock(&self, order: OrderId, key: String, goods: &[Goods]) -> Result<Answer, Unanswered> {
        self.restock(order, key, goods).await
    }
}
