//! The order service's database: one function per operation, each one transaction or one read.

mod batch_writer;
pub(crate) mod books;
mod changes;
pub mod codes;
mod error;
pub mod inspector;
pub mod postgres;
mod schema;
pub mod sqlite;
mod values;
pub mod verify;
pub(crate) mod webhooks;

use std::{path::Path, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use diesel_migrations::embed_migrations;
use souk_common::{
    ids::{OrderId, ReturnId, UserId},
    page::Scan,
};
use souk_store::{
    db::{self, Db, DbError, EmbeddedMigrations, Migrations},
    events::Notifier,
};

pub(crate) use self::values::{Placing, SavedStep};
pub use self::{
    error::StoreError,
    inspector::{Operated, SagaCondition, SagaId, SagaQuery, SagaView},
    values::{
        Adjusting, Begin, Cancel, Condition, IdempotencyRecord, Key, Lease, Note, OrderKey, OrderScope, Query, Release,
        Renewal, Shipping, TimelineRow, Which,
    },
};
use crate::domain::{Adjustment, Entry, Order, Saga, Shipment};

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

/// The orders' database.
#[derive(Clone)]
pub struct Store {
    db: Db,
    writer: batch_writer::BatchWriter,
    notifier: Notifier,
}

impl Store {
    /// On this database, whose migrations must have run. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { writer: batch_writer::start(&db), db, notifier: Notifier::default() }
    }

    /// Waits for pending writes, and closes the database.
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

    /// Opens the database as it is.
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

    /// Rings when it has written events.
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

    /// The idempotency record of a key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find_record(&self, key: &Key) -> Result<Option<IdempotencyRecord>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::find_record(conn, key).await })
    }

    /// Records an order under a lease. `Some` if the key is known already; then nothing was written.
    ///
    /// # Errors
    /// [`StoreError::ExternalIdTaken`], or where the database fails.
    pub async fn place(
        &self,
        key: &Key,
        order: &Order,
        entries: &[Entry],
        lease: Lease,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let placing = Placing { key: key.clone(), order: order.clone(), entries: entries.to_vec(), lease };
        let write = batch_writer::Write::Place(Arc::new(placing));
        let mut written = self.writer.submit(write.clone()).await.map_err(StoreError::from);
        if written.as_ref().is_err_and(StoreError::is_lost) {
            // The write may have taken effect; the key tells.
            written = self.writer.submit(write).await.map_err(StoreError::from);
        }
        match self.notify_if_ok(written)? {
            batch_writer::Written::Placed(known) => Ok(known),
            batch_writer::Written::Saved(_) => Err(StoreError::Lost),
        }
    }

    /// Stores a saga's progress since `before`, and its entries in the timeline. `response` is the response to its
    /// request, once it is final. Only the holder of the lease can do this: `false` if the lease was lost.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        Renewal { held, lease }: Renewal,
    ) -> Result<bool, StoreError> {
        match (before, after) {
            (Saga::Order(before), Saga::Order(after)) => {
                let step = SavedStep {
                    order: (**after).clone(),
                    version: before.version,
                    entries: entries.to_vec(),
                    response: response.map(<[u8]>::to_vec),
                    held,
                    lease,
                };
                match self.notify_if_ok(self.writer.submit(batch_writer::Write::Save(Arc::new(step))).await)? {
                    batch_writer::Written::Saved(saved) => Ok(saved),
                    batch_writer::Written::Placed(_) => Err(StoreError::Lost),
                }
            }
            (Saga::Adjustment(before), Saga::Adjustment(after)) => {
                let now = now();
                let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
                    let saved = q::update_adjustment(conn, after, before.step, held, entries, lease, now).await?;
                    if let (true, Some(response)) = (saved, response) {
                        q::answer_adjustment(conn, after, response).await?;
                    }
                    Ok(saved)
                });
                self.notify_if_ok(written)
            }
            _ => Ok(false),
        }
    }

    /// Whether a saga is stored as it is here, to find out whether a commit with a lost response took effect.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_saved(&self, saga: &Saga) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            match saga {
                Saga::Order(order) => q::is_at(conn, order).await,
                Saga::Adjustment(adjustment) => {
                    let stored = q::find_adjustment(conn, adjustment.id).await?;
                    let is = (adjustment.step, adjustment.settled_manually);
                    Ok(stored.is_some_and(|stored| (stored.step, stored.settled_manually) == is))
                }
            }
        })
    }

    /// Releases a lease: from `due` on any runner may continue.
    ///
    /// # Errors
    /// If the database fails; the lease then ends by itself.
    pub async fn release(&self, saga: &Saga, release: Release<'_>) -> Result<(), StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::release(conn, saga, release).await })
    }

    /// Takes over at most `limit` due sagas.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn claim(&self, lease: Lease, limit: i64) -> Result<Vec<Saga>, StoreError> {
        let now = now();
        // Looking first keeps an idle service from writing.
        let due = db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::is_any_due(conn, now).await })?;
        if !due {
            return Ok(Vec::new());
        }
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::claim(conn, now, lease, limit).await })
    }

    /// An order; where `owner` is given, only if it is theirs.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn order(&self, id: OrderId, owner: Option<UserId>) -> Result<Option<Order>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::order(conn, id, owner).await })
    }

    /// A page of orders, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn orders(&self, query: &Query) -> Result<Scan<Order, OrderKey>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::list(conn, query).await })
    }

    /// Whether an order has this number of another system.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn external_id_is_taken(&self, id: &str) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::external_id_is_taken(conn, id).await })
    }

    /// At most `limit` entries of an order's timeline from number `after` on, oldest first; `None` if there is no
    /// such order, or not of this owner, who does not see what is for staff alone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn timeline(
        &self,
        OrderScope { id, owner }: OrderScope,
        after: i32,
        limit: i64,
    ) -> Result<Option<Vec<TimelineRow>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::timeline(conn, id, owner.is_none(), after, limit).await?))
        })
    }

    /// A page of the adjustments of an order that stayed confirmed, oldest first. `None` if the order does not
    /// exist or is not this owner's.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn adjustments(
        &self,
        OrderScope { id, owner }: OrderScope,
        after: Option<ReturnId>,
        limit: i64,
    ) -> Result<Option<Vec<Adjustment>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(order) = q::order(conn, id, owner).await? else { return Ok(None) };
            Ok(Some(q::adjustments(conn, &order, after, limit).await?))
        })
    }

    /// Shipments of an order, oldest first; `None` if there is no such order, or not of this owner.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn shipments(
        &self,
        OrderScope { id, owner }: OrderScope,
        which: Which,
    ) -> Result<Option<Vec<Shipment>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::shipments(conn, id, which).await?))
        })
    }

    /// Deletes answered keys that are older than this, and says how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            Ok(u64::try_from(q::forget(conn, before).await?).unwrap_or(u64::MAX))
        })
    }

    /// Whether a webhook of the payment provider was received before.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_noticed(&self, id: &str) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::is_noticed(conn, id).await })
    }

    /// Records that a webhook of the payment provider was received.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn notice(&self, id: &str) -> Result<(), StoreError> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::notice(conn, id, now).await })
    }

    /// Deletes webhooks of the payment provider that are older than this, and says how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_notices(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            Ok(u64::try_from(q::forget_notices(conn, before).await?).unwrap_or(u64::MAX))
        })
    }

    /// Makes the next try of a waiting order due now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn wake(&self, id: OrderId) -> Result<(), StoreError> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::wake(conn, id, now).await })
    }
}
