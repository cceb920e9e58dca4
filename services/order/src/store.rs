//! The orders' database: one function an operation. Each is one transaction or one read.

pub mod codes;
mod error;
mod hot;
pub mod inspector;
pub mod postgres;
mod schema;
pub mod sqlite;
pub mod verify;
pub(crate) mod webhooks;

use std::{path::Path, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use diesel_migrations::embed_migrations;
use souk_common::{
    db::{self, Db, DbError, EmbeddedMigrations, Migrations},
    events::Bell,
    ids::{OrderId, ReturnId, ShipmentId, UserId},
    page::filter::Op,
};

pub use self::{
    error::StoreError,
    inspector::{Operated, SagaCondition, SagaId, SagaQuery, SagaView},
};
use crate::domain::{
    Adjustment, CancelRefusal, Cancelling, Entry, Kind, Order, Pieces, Refusal, Saga, Shipment, State, Tracking, What,
    Wish,
};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The migrations of both engines.
#[must_use]
pub fn migrations() -> Migrations {
    Migrations { postgres: POSTGRES, sqlite: SQLITE }
}

/// The time, as exact as both engines store it.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Who may ask what under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Resource name of the caller.
    pub caller: String,
    /// Name of the method.
    pub method: &'static str,
    /// The key itself.
    pub key: String,
    /// SHA-256 of the request.
    pub request_hash: Vec<u8>,
}

/// What is remembered under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether the request was the same.
    pub same_request: bool,
    /// The order that it made or was about.
    pub order: OrderId,
    /// The adjustment that it made.
    pub back: Option<ReturnId>,
    /// What was answered, encoded, once that is final.
    pub response: Option<Vec<u8>>,
}

/// The right to run a saga until a time. Nobody else knows its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: i64,
    /// From when on others may take over.
    pub until: DateTime<Utc>,
}

/// A wish for a page of orders, newest first.
#[derive(Clone, Debug)]
pub struct Query {
    /// Whose orders; all where `None`.
    pub customer: Option<UserId>,
    /// What must hold of each.
    pub conditions: Vec<Condition>,
    /// The last one of the page before.
    pub after: Option<(DateTime<Utc>, OrderId)>,
    /// How many at most.
    pub limit: i64,
}

/// What must hold of an order to be listed.
#[derive(Clone, Debug)]
pub enum Condition {
    /// It is in this state, or (`false`) in another one.
    State(bool, State),
    /// Its number in another system compares so. [`Op::Contains`] does not mind the case of ASCII letters.
    ExternalId(Op, String),
    /// When it was placed compares so.
    PlaceTime(Op, DateTime<Utc>),
    /// When it was taken down compares so.
    CreateTime(Op, DateTime<Utc>),
}

/// An entry of a timeline with its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// From 1.
    pub number: i32,
    /// What happened.
    pub entry: Entry,
    /// When.
    pub time: DateTime<Utc>,
}

/// An order to take down.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    key: Key,
    order: Order,
    entries: Vec<Entry>,
    lease: Lease,
}

/// A step of an order's saga that has ended.
#[derive(Clone, Debug)]
pub(crate) struct SavedStep {
    /// The order after it.
    order: Order,
    /// The order's version before it.
    version: i64,
    entries: Vec<Entry>,
    response: Option<Vec<u8>>,
    /// The lease that must still be held, and what it becomes.
    held: i64,
    lease: Lease,
}

/// What became of a wish to cancel.
#[derive(Clone, Debug)]
pub enum Cancel {
    /// There is no such order, or it is someone else's.
    NotFound,
    /// It cannot be cancelled.
    Refused(CancelRefusal, Box<Order>),
    /// It is cancelled already.
    Already(Box<Order>),
    /// The key is known.
    Known(Memory),
    /// Cancelling the order, or pieces of it, has begun under the lease.
    Begun(Saga),
}

/// What became of a wish for a change that is known by a key.
#[derive(Clone, Debug)]
pub enum Begin<T> {
    /// There is no such order.
    NotFound,
    /// The key is known.
    Known(Memory),
    /// It cannot be.
    Refused(Refusal),
    /// It was taken down.
    Begun(T),
}

/// A shipment to take down.
#[derive(Clone, Debug)]
pub struct Shipping {
    /// What leaves.
    pub items: Vec<Pieces>,
    /// How.
    pub tracking: Tracking,
    /// When it left, where that is not now.
    pub time: Option<DateTime<Utc>>,
}

/// Which of an order's shipments.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// This one.
    One(ShipmentId),
    /// So many after this one.
    Page(Option<ShipmentId>, i64),
}

/// The orders' database.
#[derive(Clone)]
pub struct Store {
    db: Db,
    hot: hot::Writes,
    bell: Bell,
}

impl Store {
    /// On this database, whose migrations must have run. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { hot: hot::start(&db), db, bell: Bell::default() }
    }

    /// Ends what is being written, and closes the database.
    pub async fn close(&self) {
        self.hot.drain().await;
        self.db.close();
    }

    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// Where it cannot be opened or migrated.
    pub async fn open(config: &db::Config, data_dir: &Path) -> Result<Self, DbError> {
        let db = Self::connect(config, data_dir).await?;
        db.migrate().await?;
        Ok(Self::new(db))
    }

    /// Opens the database as it is.
    ///
    /// # Errors
    /// Where it cannot be opened.
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
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Tells of the events that a write which went well has written.
    fn told<T, E>(&self, written: Result<T, E>) -> Result<T, E> {
        if written.is_ok() {
            self.bell.ring();
        }
        written
    }

    /// What is remembered under a key.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn recall(&self, key: &Key) -> Result<Option<Memory>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::recall(conn, key).await })
    }

    /// Takes an order down under a lease. `Some` where the key is known already; then nothing was written.
    ///
    /// # Errors
    /// [`StoreError::ExternalIdTaken`], or where the database fails.
    pub async fn place(
        &self,
        key: &Key,
        order: &Order,
        entries: &[Entry],
        lease: Lease,
    ) -> Result<Option<Memory>, StoreError> {
        let placing = Placing { key: key.clone(), order: order.clone(), entries: entries.to_vec(), lease };
        match self.told(self.hot.submit(hot::Write::Place(Arc::new(placing))).await)? {
            hot::Written::Placed(known) => Ok(known),
            hot::Written::Saved(_) => Err(StoreError::Lost),
        }
    }

    /// Stores where a saga has come to since `before`, and its entries in the timeline; `response` is the answer
    /// to whoever asked for it, once it is final. Only the holder of the lease can; `false` where it is not one's
    /// own any more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        (held, lease): (i64, Lease),
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
                match self.told(self.hot.submit(hot::Write::Save(Arc::new(step))).await)? {
                    hot::Written::Saved(saved) => Ok(saved),
                    hot::Written::Placed(_) => Err(StoreError::Lost),
                }
            }
            (Saga::Adjustment(before), Saga::Adjustment(after)) => {
                let now = now();
                let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
                    let saved = q::update_adjustment(conn, after, before.step, held, entries, (lease, now)).await?;
                    if let (true, Some(response)) = (saved, response) {
                        q::answer_adjustment(conn, after, response).await?;
                    }
                    Ok(saved)
                });
                self.told(written)
            }
            _ => Ok(false),
        }
    }

    /// Whether a saga has been stored as it is here: for whoever does not know whether a commit went through.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn is_saved(&self, saga: &Saga) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            match saga {
                Saga::Order(order) => q::is_at(conn, order).await,
                Saga::Adjustment(adjustment) => {
                    let stored = q::find_adjustment(conn, adjustment.id).await?;
                    Ok(stored.is_some_and(|stored| stored.step == adjustment.step))
                }
            }
        })
    }

    /// Gives up a lease: from `due` on anyone may go on. `error` says why, for operators alone.
    ///
    /// # Errors
    /// Where the database fails; the lease then ends by itself.
    pub async fn release(
        &self,
        saga: &Saga,
        held: i64,
        due: DateTime<Utc>,
        (attempts, error): (i32, &str),
    ) -> Result<(), StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            q::release(conn, saga, held, due, (attempts, error)).await
        })
    }

    /// Takes over at most `limit` sagas whose time has come.
    ///
    /// # Errors
    /// Where the database fails.
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
    /// Where the database fails.
    pub async fn order(&self, id: OrderId, owner: Option<UserId>) -> Result<Option<Order>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::order(conn, id, owner).await })
    }

    /// A page of orders, newest first.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn orders(&self, query: &Query) -> Result<Vec<Order>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::list(conn, query).await })
    }

    /// Whether an order has this number of another system.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn external_id_is_taken(&self, id: &str) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::external_id_is_taken(conn, id).await })
    }

    /// At most `limit` entries of an order's timeline from number `after` on, oldest first; `None` where there is
    /// no such order, or not of this owner, who does not see what is for staff alone.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn timeline(
        &self,
        (id, owner): (OrderId, Option<UserId>),
        after: i32,
        limit: i64,
    ) -> Result<Option<Vec<TimelineRow>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::timeline(conn, (id, owner.is_none()), after, limit).await?))
        })
    }

    /// Begins to cancel an order, or pieces of it, under a lease. `respond` gives the answer to what is final at once.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn cancel(
        &self,
        (id, owner): (OrderId, Option<UserId>),
        (key, items): (&Key, &[Pieces]),
        wish: Wish<'_>,
        lease: Lease,
        respond: impl Fn(&Adjustment) -> Vec<u8> + Sync,
    ) -> Result<Cancel, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(mut order) = q::order_to_change(conn, id, owner).await? else {
                return Ok(Cancel::NotFound);
            };
            // The whole order is cancelled once, key or not.
            if !items.is_empty()
                && let Some(memory) = q::recall(conn, key).await?
            {
                return Ok(Cancel::Known(memory));
            }
            let version = order.version;
            match order.cancel(items, wish, now)? {
                Err(refusal) => Ok(Cancel::Refused(refusal, Box::new(order))),
                Ok(Cancelling::Already) => Ok(Cancel::Already(Box::new(order))),
                Ok(Cancelling::Whole(entries)) => {
                    if !q::update_order(conn, &order, version, &entries, lease).await? {
                        return Err(StoreError::Corrupt("a locked order that changed".into()));
                    }
                    Ok(Cancel::Begun(Saga::Order(Box::new(order))))
                }
                Ok(Cancelling::Items(adjustment, entries)) => {
                    let begun = (&*adjustment, entries.as_slice());
                    q::begin_adjustment(conn, key, (&order, version), begun, (lease, respond(&adjustment))).await?;
                    Ok(Cancel::Begun(Saga::Adjustment(adjustment)))
                }
            }
        });
        self.told(written)
    }

    /// Takes an adjustment down under a lease. `respond` gives the answer to one that is final at once.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn adjust(
        &self,
        (key, id): (&Key, OrderId),
        (what, time): (&What, Option<DateTime<Utc>>),
        wish: Wish<'_>,
        lease: Lease,
        respond: impl Fn(&Adjustment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Box<Adjustment>>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(mut order) = q::order_to_change(conn, id, None).await? else {
                return Ok(Begin::NotFound);
            };
            if let Some(memory) = q::recall(conn, key).await? {
                return Ok(Begin::Known(memory));
            }
            let version = order.version;
            let (adjustment, entries) = match Adjustment::begin(&mut order, what, wish, time, now)? {
                Err(refusal) => return Ok(Begin::Refused(refusal)),
                Ok(begun) => begun,
            };
            let begun = (&adjustment, entries.as_slice());
            q::begin_adjustment(conn, key, (&order, version), begun, (lease, respond(&adjustment))).await?;
            Ok(Begin::Begun(Box::new(adjustment)))
        });
        self.told(written)
    }

    /// A page of what was given back of an order that stayed confirmed, oldest first; `None` where there is no such
    /// order, or not of this owner.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn adjustments(
        &self,
        (id, owner): (OrderId, Option<UserId>),
        after: Option<ReturnId>,
        limit: i64,
    ) -> Result<Option<Vec<Adjustment>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(order) = q::order(conn, id, owner).await? else { return Ok(None) };
            Ok(Some(q::adjustments(conn, &order, after, limit).await?))
        })
    }

    /// Takes a shipment down, and `respond`'s answer to it.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn ship(
        &self,
        (key, id): (&Key, OrderId),
        shipping: &Shipping,
        respond: impl Fn(&Shipment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Shipment>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(mut order) = q::order_to_change(conn, id, None).await? else {
                return Ok(Begin::NotFound);
            };
            if let Some(memory) = q::recall(conn, key).await? {
                return Ok(Begin::Known(memory));
            }
            let version = order.version;
            let (tracking, times) = (shipping.tracking.clone(), (shipping.time, now));
            let begun = Shipment::begin(&mut order, &shipping.items, tracking, &key.caller, times);
            let (shipment, entries) = match begun {
                Err(refusal) => return Ok(Begin::Refused(refusal)),
                Ok(begun) => begun,
            };
            if !q::remember(conn, key, (order.id, None), now).await? {
                return Err(StoreError::KeyRaced);
            }
            q::answer(conn, key, &respond(&shipment)).await?;
            q::write_effects(conn, &order, version, &shipment.lines, &entries).await?;
            q::insert_shipment(conn, &shipment).await?;
            Ok(Begin::Begun(shipment))
        });
        self.told(written)
    }

    /// Shipments of an order, oldest first; `None` where there is no such order, or not of this owner.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn shipments(
        &self,
        (id, owner): (OrderId, Option<UserId>),
        which: Which,
    ) -> Result<Option<Vec<Shipment>>, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> {
            if !q::exists(conn, id, owner).await? {
                return Ok(None);
            }
            Ok(Some(q::shipments(conn, id, which).await?))
        })
    }

    /// Writes a note into an order's timeline, and `respond`'s answer to it. Refused only while someone is at the
    /// order.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn note(
        &self,
        (key, id): (&Key, OrderId),
        (text, internal): (&str, bool),
        respond: impl Fn(&TimelineRow) -> Vec<u8> + Sync,
    ) -> Result<Begin<TimelineRow>, StoreError> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            let Some(mut order) = q::order_to_change(conn, id, None).await? else {
                return Ok(Begin::NotFound);
            };
            if let Some(memory) = q::recall(conn, key).await? {
                return Ok(Begin::Known(memory));
            }
            // Whoever runs its saga counts the entries: what came in between would be refused there.
            if q::is_leased(conn, id, now).await? {
                return Ok(Begin::Refused(Refusal::Busy));
            }
            let version = order.version;
            let entry = Entry { internal, ..Entry::new(Kind::Note, key.caller.as_str(), text) };
            let entries = order.record(entry.clone(), now);
            if !q::remember(conn, key, (order.id, None), now).await? {
                return Err(StoreError::KeyRaced);
            }
            let row = TimelineRow { number: order.entries, entry, time: now };
            q::answer(conn, key, &respond(&row)).await?;
            q::write_effects(conn, &order, version, &[], &entries).await?;
            Ok(Begin::Begun(row))
        });
        self.told(written)
    }

    /// Forgets answered keys that are older than this, and says how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn forget(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            Ok(u64::try_from(q::forget(conn, before).await?).unwrap_or(u64::MAX))
        })
    }

    /// Whether a webhook of the payment provider was taken in before.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn is_noticed(&self, id: &str) -> Result<bool, StoreError> {
        db::read!(self.db, |conn, q| -> Result<_, StoreError> { q::is_noticed(conn, id).await })
    }

    /// Remembers that a webhook of the payment provider was taken in.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn notice(&self, id: &str) -> Result<(), StoreError> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::notice(conn, id, now).await })
    }

    /// Forgets webhooks of the payment provider that are older than this, and says how many.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn forget_notices(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        db::write!(self.db, |conn, q| -> Result<_, StoreError> {
            Ok(u64::try_from(q::forget_notices(conn, before).await?).unwrap_or(u64::MAX))
        })
    }

    /// Has an order that waits for its next try be tried by the job's next run.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn wake(&self, id: OrderId) -> Result<(), StoreError> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, StoreError> { q::wake(conn, id, now).await })
    }
}
