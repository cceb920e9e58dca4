//! What all groups of tests share.

mod events;
mod failover;
mod failures;
mod jobs;
mod letters;
mod pooler;
mod startup;
mod store;
mod tls;
mod transactions;
mod watch;

use souk_common::ids::UserId;
use souk_store::db::{Config, Db};
use souk_testkit::db::TestDatabase;

use store::Account;

/// A migrated database. Dropped with the guard.
struct Fixture {
    db: Db,
    database: TestDatabase,
}

impl Fixture {
    async fn on(database: TestDatabase, settings: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::at(&database.url);
        settings(&mut config);
        let db = connect(&config, &database).await;
        db.migrate().await.unwrap();
        Self { db, database }
    }
}

async fn connect(config: &Config, database: &TestDatabase) -> Db {
    Db::connect(config, database.data_dir(), "accounts", store::migrations()).await.unwrap()
}

/// A new database on each engine.
async fn both() -> [Fixture; 2] {
    let [sqlite, postgres] = souk_testkit::db::both("common").await;
    [Fixture::on(sqlite, |_| {}).await, Fixture::on(postgres, |_| {}).await]
}

/// A new database on PostgreSQL.
async fn postgres(settings: impl FnOnce(&mut Config)) -> Fixture {
    let database = souk_testkit::db::database(souk_testkit::db::Engine::Postgres, "common").await;
    Fixture::on(database, settings).await
}

/// Transactions of new connections are serializable by default.
async fn serializable(fixture: &Fixture) -> Db {
    let mut config = Config::at(&fixture.database.url);
    if fixture.db.engine() == souk_store::db::Engine::Postgres {
        let separator = if config.url.contains('?') { '&' } else { '?' };
        config.url.push(separator);
        config.url.push_str("options=-c%20default_transaction_isolation%3Dserializable");
    }
    connect(&config, &fixture.database).await
}

fn account(email: &str, balance: i64) -> Account {
    Account {
        id: UserId::new(),
        email: email.into(),
        balance,
        currency: souk_common::money::Currency::GBP,
        // The engines store microseconds.
        created_at: "2026-01-31T12:00:00.123456Z".parse().unwrap(),
    }
}
