//! The inventory service's database: one function per operation. All SQL is below this module.

mod codes;
mod postgres;
mod schema;
mod sqlite;
pub mod verify;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use diesel_migrations::embed_migrations;
use souk_common::{
    ids::{LocationId, OrderId, ProductId},
    page::Scan,
};
use souk_store::{
    db::{self, Db, DbError, EmbeddedMigrations, Migrations},
    events::Notifier,
};

use crate::{
    domain::{
        book::Answer,
        command::{Command, Refusal, Reply},
        location::Location,
        product::{
            Change, Draft, Product,
            list::{Key, Listing},
            upsert::{Fields, NotTaken, Offer, Outcome},
        },
        reservation::Reservation,
        stock::{
            LedgerEntry, LowStock, PastLevel, Place, StockLevel,
            balance::{BalancePage, Mended},
        },
    },
    error::Error,
};

const POSTGRES_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The result of a batch.
pub(crate) enum BatchOutcome {
    /// The result of each command, in the order of the commands.
    Decided(Vec<Result<Reply, Refusal>>),
    /// Nothing was written: the batch must also lock these products.
    Widen(BTreeSet<ProductId>),
}

/// How long a batch is retried after conflicts with other transactions. With serializable isolation, several busy
/// replicas conflict all the time. In each conflict one of them succeeds, so all make progress.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The service's database.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
    notifier: Notifier,
}

impl Store {
    /// Opens the database and brings its schema up to date.
    pub async fn open(config: &db::Config, data_dir: &Path) -> Result<Self, DbError> {
        let db = Self::connect(config, data_dir).await?;
        for migration in db.migrate().await? {
            tracing::info!(migration, "migrated");
        }
        Ok(Self { db, notifier: Notifier::default() })
    }

    /// The notifier that the store uses after each write with events.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Notifies the event log after a successful write.
    fn notify_if_ok<T>(&self, written: Result<T, Error>) -> Result<T, Error> {
        if written.is_ok() {
            self.notifier.notify();
        }
        written
    }

    /// Opens the database without migrating it.
    pub async fn connect(config: &db::Config, data_dir: &Path) -> Result<Db, DbError> {
        let migrations = Migrations { postgres: POSTGRES_MIGRATIONS, sqlite: SQLITE_MIGRATIONS };
        Db::connect(config, data_dir, "inventory", migrations).await
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Decides commands in order, and writes their changes, all in one transaction. Returns one result each. Fails as a
    /// whole only if the database fails.
    pub async fn run(&self, commands: &[Command]) -> Result<Vec<Result<Reply, Refusal>>, Error> {
        let mut products = BTreeSet::new();
        let began = Instant::now();
        loop {
            let outcome = db::write!(self.db, |conn, q| -> Result<BatchOutcome, Error> {
                q::batch::run(conn, commands, &products).await
            });
            match outcome {
                Ok(BatchOutcome::Decided(answers)) => return self.notify_if_ok(Ok(answers)),
                Ok(BatchOutcome::Widen(more)) => products.extend(more),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
            if began.elapsed() > TIMEOUT {
                return Err(collided());
            }
        }
    }

    /// Adds a product.
    pub async fn create_product(&self, draft: &Draft) -> Result<Product, Error> {
        self.notify_if_ok(db::write!(self.db, |conn, q| -> Result<Product, Error> {
            q::products::create(conn, draft).await
        }))
    }

    /// Products by id, in no order. Ids without a product are omitted.
    pub async fn products(&self, ids: &[ProductId]) -> Result<Vec<Product>, Error> {
        db::read!(self.db, |conn, q| -> Result<Vec<Product>, Error> { q::products::by_id(conn, ids).await })
    }

    /// Products by stock code, in no order. Letter case is ignored. Codes without a product are omitted.
    pub async fn products_by_sku(&self, skus: &[String]) -> Result<Vec<Product>, Error> {
        db::read!(self.db, |conn, q| -> Result<Vec<Product>, Error> { q::products::by_sku(conn, skus).await })
    }

    /// A page of products and one more, if the scanned products have that many matches.
    pub async fn list_products(&self, listing: &Listing) -> Result<Scan<Product, Key>, Error> {
        db::read!(self.db, |conn, q| -> Result<Scan<Product, Key>, Error> {
            q::products::list::list(conn, listing).await
        })
    }

    /// Changes a product. Archived products cannot be changed.
    pub async fn update_product(&self, id: ProductId, etag: Option<&str>, change: &Change) -> Result<Product, Error> {
        self.notify_if_ok(db::write!(self.db, |conn, q| -> Result<Product, Error> {
            q::products::update(conn, id, etag, change).await
        }))
    }

    /// Imports a product feed. Returns one result for each offer.
    pub async fn upsert_products(
        &self,
        offers: &[Offer],
        fields: Fields,
    ) -> Result<Vec<Result<Outcome, NotTaken>>, Error> {
        self.notify_if_ok(db::write!(self.db, |conn, q| -> Result<Vec<Result<Outcome, NotTaken>>, Error> {
            q::products::upsert::run(conn, offers, fields).await
        }))
    }

    /// Archives a product. If it is archived already, nothing changes.
    pub async fn archive_product(&self, id: ProductId, etag: Option<&str>) -> Result<Product, Error> {
        self.notify_if_ok(db::write!(self.db, |conn, q| -> Result<Product, Error> {
            q::products::archive(conn, id, etag).await
        }))
    }

    /// Creates the search words of products that have none or outdated ones. Returns the number of these products,
    /// which is 0 once all are done. Such products were written by a version of the service without search.
    pub async fn make_words(&self, limit: i64) -> Result<u64, Error> {
        db::write!(self.db, |conn, q| -> Result<u64, Error> { q::products::make_words(conn, limit).await })
    }

    /// Adds a location.
    pub async fn create_location(&self, code: &str, display_name: &str, priority: i32) -> Result<Location, Error> {
        db::write!(self.db, |conn, q| -> Result<Location, Error> {
            q::locations::create(conn, code, display_name, priority).await
        })
    }

    /// One location.
    pub async fn location(&self, id: LocationId) -> Result<Location, Error> {
        db::read!(self.db, |conn, q| -> Result<Location, Error> { q::locations::get(conn, id).await })
    }

    /// Locations by priority, then code, after the given ones.
    pub async fn list_locations(&self, after: Option<&(i32, String)>, limit: i64) -> Result<Vec<Location>, Error> {
        db::read!(self.db, |conn, q| -> Result<Vec<Location>, Error> { q::locations::list(conn, after, limit).await })
    }

    /// A product's stock at every location that has or had it, in the order in which orders are filled.
    pub async fn stock(&self, product: ProductId) -> Result<Vec<StockLevel>, Error> {
        db::snapshot!(self.db, |conn, q| -> Result<Vec<StockLevel>, Error> { q::stock::levels(conn, product).await })
    }

    /// A product's stock at a time in the past, at every location that had had the product by then.
    pub async fn stock_at(&self, product: ProductId, time: DateTime<Utc>) -> Result<Vec<PastLevel>, Error> {
        db::snapshot!(self.db, |conn, q| -> Result<Vec<PastLevel>, Error> {
            q::stock::levels_at(conn, product, time).await
        })
    }

    /// Pieces of a product that can be reserved now; `None` if its stock is not tracked.
    pub async fn availability(&self, product: ProductId) -> Result<Option<i64>, Error> {
        db::read!(self.db, |conn, q| -> Result<Option<i64>, Error> { q::stock::availability(conn, product).await })
    }

    /// Products that are low, by id, after the given one.
    pub async fn low_stock(&self, after: Option<ProductId>, limit: i64) -> Result<Scan<LowStock, ProductId>, Error> {
        db::read!(self.db, |conn, q| -> Result<Scan<_, _>, Error> { q::stock::low(conn, after, limit).await })
    }

    /// A product's ledger entries, newest first, below a sequence number.
    pub async fn ledger(&self, product: ProductId, before: Option<i64>, limit: i64) -> Result<Vec<LedgerEntry>, Error> {
        db::read!(self.db, |conn, q| -> Result<Vec<LedgerEntry>, Error> {
            q::stock::ledger(conn, product, before, limit).await
        })
    }

    /// The balances of a page of products, in one snapshot.
    pub async fn balances(&self, after: Option<ProductId>, size: i64) -> Result<BalancePage, Error> {
        db::snapshot!(self.db, |conn, q| -> Result<BalancePage, Error> {
            q::stock::balances::page(conn, after, size).await
        })
    }

    /// Corrects a balance. `None` if it is correct by now.
    pub async fn mend(&self, place: Place, actor: &str) -> Result<Option<Mended>, Error> {
        self.notify_if_ok(db::write!(self.db, |conn, q| -> Result<Option<Mended>, Error> {
            q::stock::balances::mend(conn, place, actor).await
        }))
    }

    /// An order's reservation. Its state takes account of the current time.
    pub async fn reservation(&self, order: OrderId) -> Result<Option<Reservation>, Error> {
        db::snapshot!(self.db, |conn, q| -> Result<Option<Reservation>, Error> {
            q::reservations::get(conn, order).await
        })
    }

    /// Orders whose reservations have expired, the oldest first.
    pub async fn lapsed(&self, limit: i64) -> Result<Vec<OrderId>, Error> {
        db::read!(self.db, |conn, q| -> Result<Vec<OrderId>, Error> { q::reservations::lapsed(conn, limit).await })
    }

    /// Deletes responses to requests from before this time. Returns their number.
    pub async fn forget_requests(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        db::write!(self.db, |conn, q| -> Result<u64, Error> { q::batch::forget(conn, before).await })
    }
}

/// The error for a conflict with a concurrent transaction. A retry may succeed.
pub(crate) fn collided() -> Error {
    DbError::Conflict(diesel::result::Error::RollbackTransaction).into()
}

/// An answer in the form in which it is stored.
fn answer_text(answer: &Answer) -> Result<String, Error> {
    serde_json::to_string(&answer.reply)
        .map_err(|error| Error::Corrupt(format!("an answer that cannot be written: {error}")))
}
