//! `souk verify` finds broken promises.

use diesel_async::{
    AsyncConnection, AsyncPgConnection, SimpleAsyncConnection, sync_connection_wrapper::SyncConnectionWrapper,
};
use souk_testkit::db::{Engine, TestDatabase};

use crate::harness::{both, order};

/// Changes the database behind the service's back.
pub async fn tamper(database: &TestDatabase, sql: &str) {
    match database.engine {
        Engine::Postgres => {
            let mut conn = AsyncPgConnection::establish(&database.url).await.unwrap();
            conn.batch_execute(sql).await.unwrap();
        }
        Engine::Sqlite => {
            let path = database.url.strip_prefix("sqlite:").unwrap();
            let mut conn = SyncConnectionWrapper::<diesel::SqliteConnection>::establish(path).await.unwrap();
            // Foreign keys are not checked for changes behind the service's back.
            conn.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = OFF").await.unwrap();
            conn.batch_execute(sql).await.unwrap();
        }
    }
}

#[derive(diesel::QueryableByName)]
struct Step {
    #[diesel(sql_type = diesel::sql_types::Text)]
    detail: String,
}

/// SQLite's plan of a query.
pub async fn plan(database: &TestDatabase, explain: &str) -> String {
    let path = database.url.strip_prefix("sqlite:").unwrap();
    let mut conn = SyncConnectionWrapper::<diesel::SqliteConnection>::establish(path).await.unwrap();
    let steps: Vec<Step> = diesel_async::RunQueryDsl::load(diesel::sql_query(explain), &mut conn).await.unwrap();
    steps.into_iter().map(|step| step.detail).collect::<Vec<_>>().join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_promise_is_found_and_named() {
    for souk in both().await {
        let product = souk.stocked("A", 10).await;
        let (open, sold) = (order(), order());
        souk.reserve(&open, &[(&product, 2)]).await.unwrap();
        souk.reserve(&sold, &[(&product, 3)]).await.unwrap();
        souk.commit(&sold).await.unwrap();
        souk.give_back(&sold, "k", &[(&product, 1)]).await.unwrap();
        souk.verified().await;
        for (harm, repair, promise, about) in [
            (
                "UPDATE stock SET on_hand = on_hand + 1",
                "UPDATE stock SET on_hand = on_hand - 1",
                "stock on hand is",
                &product,
            ),
            (
                "UPDATE ledger SET on_hand_after = 99 WHERE reason = 'SALE'",
                "UPDATE ledger SET on_hand_after = 7 WHERE reason = 'SALE'",
                "every ledger entry",
                &product,
            ),
            ("UPDATE stock SET reserved = 3", "UPDATE stock SET reserved = 2", "reserved stock is what", &product),
            (
                "UPDATE ledger SET reason = 'DAMAGE' WHERE reason = 'SALE'",
                "UPDATE ledger SET reason = 'SALE' WHERE reason = 'DAMAGE'",
                "committed reservations are",
                &product,
            ),
            (
                "UPDATE reservation_lines SET returned = 2 WHERE returned = 1",
                "UPDATE reservation_lines SET returned = 1 WHERE returned = 2",
                "goods that came back",
                &product,
            ),
            (
                "UPDATE ledger SET location_id = product_id WHERE reason = 'SALE'",
                "UPDATE ledger SET location_id = (SELECT location_id FROM stock)",
                "every ledger entry and every reservation line",
                &product,
            ),
            (
                "UPDATE reservation_lines SET location_id = product_id WHERE returned = 1",
                "UPDATE reservation_lines SET location_id = (SELECT location_id FROM stock)",
                "every ledger entry and every reservation line",
                &product,
            ),
            (
                "UPDATE reservation_lines SET reservation_id = product_id WHERE returned = 1",
                "UPDATE reservation_lines SET reservation_id = (SELECT id FROM reservations WHERE state = 'COMMITTED')
                 WHERE returned = 1",
                "lines hold stock",
                // The id that the line has now.
                &product.replace("products/prd_", "orders/ord_"),
            ),
            (
                "UPDATE reservations SET state = 'EXPIRED' WHERE state = 'OPEN'",
                "UPDATE reservations SET state = 'OPEN' WHERE state = 'EXPIRED'",
                "lines hold stock",
                &open,
            ),
        ] {
            tamper(&souk.database, harm).await;
            let checks = souk_inventory::verify(&souk.config).await.unwrap();
            let broken = checks.iter().find(|check| check.name.starts_with(promise)).unwrap();
            assert!(!broken.holds() && broken.broken[0].contains(about.as_str()), "{harm}: {checks:?}");
            assert!(broken.counted > 0);
            tamper(&souk.database, repair).await;
            souk.verified().await;
        }
    }
}
