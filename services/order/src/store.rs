//! The order service's database: one function per operation, each one transaction or one read.

mod adjustments;
mod batch_writer;
pub mod codes;
mod orders;
pub(crate) mod payments;
pub mod postgres;
pub mod sagas;
mod schema;
mod shipments;
pub mod sqlite;
pub mod verify;
pub(crate) mod webhooks;

use std::{path::Path, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use diesel_migrations::embed_migrations;
use souk_store::{
    db::{self, Db, DbError, EmbeddedMigrations, Migrations},
    events::Notifier,
};

pub use self::{
    adjustments::Adjusting,
    orders::{Begin, Cancel, Condition, IdempotencyRecord, Key, Note, OrderKey, OrderScope, Query, TimelineRow},
    sagas::{Lease, Operated, Release, Renewal, SagaCondition, SagaId, SagaKey, SagaQuery, SagaView},
    shipments::{Shipping, Which},
};
pub(crate) use self::{orders::Placing, sagas::SavedStep};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The migrations of both engines.
#[must_use]
pub fn migrations() -> Migrations {
    Migrations { postgres: POSTGRES, sqlite: SQLITE }
}

/// The current time, in the precision of both engines.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// The time that was this long ago; `None` if it is out of range.
#[must_use]
pub fn ago(age: Duration) -> Option<DateTime<Utc>> {
    now().checked_sub_signed(TimeDelta::from_std(age).ok()?)
}

/// The orders' database.
#[derive(Clone)]
pub struct Store {
    db: Db,
    writer: batch_writer::BatchWriter,
    notifier: Notifier,
}

impl Store {
    /// Uses this database, whose migrations must have run. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { writer: batch_writer::start(&db), db, notifier: Notifier::default() }
    }

    /// Waits for pending writes, then closes the database.
    pub async fn close(&self) {
        self.writer.drain().await;
        self.db.close();
    }

    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// If it cannot be opened or migrated.
    pub async fn open(config: &db::Config, data_dir: &Path) -> Result<Self, DbError> {
        let db = Self::connect(config, data_dir).await?;
        db.migrate().await?;
        Ok(Self::new(db))
    }

    /// Opens the database without migrating it.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn connect(config: &db::Config, data_dir: &Path) -> Result<Db, DbError> {
        Db::connect(config, data_dir, "order", migrations()).await
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The notifier that the store uses after each write with events.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Notifies the event log after a successful write.
    fn notify_if_ok<T, E>(&self, written: Result<T, E>) -> Result<T, E> {
        if written.is_ok() {
            self.notifier.notify();
        }
        written
    }
}
