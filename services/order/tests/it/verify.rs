//! `souk verify` finds what was broken on purpose.

use souk_order::store::verify::sold_orders;
use souk_proto::order::v1::order::State;
use souk_store::db::Pools;

use crate::harness::{Souk, back, both, cancel, gbp, order_for, refund, shipment, untracked};

/// Runs a statement behind the service's back. Returns the number of changed rows.
pub async fn tamper(souk: &Souk, statement: &str) -> usize {
    use diesel_async::RunQueryDsl;
    let db = souk.db().await;
    let changed = match db.pools() {
        Pools::Postgres(pool) => {
            let conn = &mut pool.get().await.unwrap();
            // With this isolation, it waits for concurrent changes of the row instead of failing.
            diesel::sql_query("SET default_transaction_isolation = 'read committed'").execute(conn).await.unwrap();
            diesel::sql_query(statement).execute(conn).await.unwrap()
        }
        Pools::Sqlite(pool) => {
            let conn = &mut pool.writer().await.unwrap();
            // Foreign keys are not checked for changes behind the service's back.
            diesel::sql_query("PRAGMA foreign_keys = OFF").execute(conn).await.unwrap();
            diesel::sql_query(statement).execute(conn).await.unwrap()
        }
    };
    db.close();
    changed
}

pub async fn broken(souk: &Souk) -> Vec<&'static str> {
    let checks = souk_order::verify(&souk.config).await.unwrap();
    checks.into_iter().filter(|check| !check.holds()).map(|check| check.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_promise_is_found() {
    let cases = [
        ("UPDATE orders SET lease = 1 WHERE state = 'CONFIRMED'", "every order is final"),
        ("UPDATE orders SET pending_returns = 1 WHERE state = 'CONFIRMED'", "count of returns"),
        ("UPDATE orders SET total_minor = total_minor + 1 WHERE state = 'CONFIRMED'", "totals are the sums"),
        ("UPDATE orders SET payment_state = 'AUTHORIZED' WHERE state = 'CONFIRMED'", "exactly one captured payment"),
        (
            "UPDATE simulated_payments SET state = 'AUTHORIZED' WHERE refunded_minor = 0 AND state = 'CAPTURED'",
            "exactly one captured payment",
        ),
        ("UPDATE simulated_payments SET state = 'CAPTURED' WHERE state = 'DECLINED'", "could not be placed"),
        ("UPDATE order_lines SET returned = 0 WHERE returned > 0", "pieces that came back"),
        ("UPDATE order_lines SET cancelled = 1 WHERE cancelled > 0 AND returned > 0", "pieces that came back or were"),
        ("UPDATE order_lines SET shipped = shipped + 1 WHERE shipped > 0", "pieces that were shipped"),
        ("UPDATE orders SET refunding_minor = 1 WHERE state = 'CONFIRMED'", "and their money"),
        ("DELETE FROM return_lines WHERE quantity = 2", "cancelled are those"),
        ("UPDATE orders SET refunded_minor = 1 WHERE state = 'CONFIRMED'", "refunds match"),
        ("UPDATE orders SET refunded_minor = 1 WHERE state = 'CANCELLED'", "refunded to the last penny"),
        ("DELETE FROM timeline_entries WHERE kind = 'CONFIRMED'", "timelines are whole"),
        ("DELETE FROM orders WHERE state = 'REJECTED'", "every line has its order"),
        ("DELETE FROM orders WHERE state = 'CANCELLED'", "every entry of a timeline has its order"),
        ("UPDATE idempotency_keys SET response = NULL", "every idempotency record"),
        ("UPDATE orders SET payment_token = 'tok_approved' WHERE state = 'CONFIRMED'", "payment tokens"),
        (
            "INSERT INTO simulated_payments SELECT 'x', 'x', behaviour, state, currency, amount_minor, refunded_minor,
                message, expires_at, 1, 1 FROM simulated_payments WHERE state = 'DECLINED'",
            "every payment at the provider",
        ),
    ];
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 1000).await;
        for (statement, promise) in cases {
            let order = souk.confirmed(&[(&lantern, 7)]).await;
            souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
            souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 2)])).await.unwrap();
            souk.refund(&souk.staff, refund(&order.name, gbp(1, 0))).await.unwrap();
            souk.ship(&souk.staff, shipment(&order.name, &[(1, 2)])).await.unwrap();
            souk.confirmed(&[(&lantern, 1)]).await;
            let cancelled = souk.confirmed(&[(&lantern, 1)]).await;
            souk.cancel(&souk.ada, &cancelled.name, "").await.unwrap();
            let declined = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
            assert_eq!(declined.state(), State::Rejected);
            assert_eq!(broken(&souk).await, Vec::<&str>::new(), "{} before {promise}", souk.engine);
            tamper(&souk, statement).await;
            let found = broken(&souk).await;
            assert!(found.iter().any(|name| name.contains(promise)), "{}: {promise}: {found:?}", souk.engine);
            // Deletes everything for the next case.
            for table in [
                "simulated_refunds",
                "simulated_payments",
                "idempotency_keys",
                "return_lines",
                "shipment_lines",
                "shipments",
                "returns",
                "timeline_entries",
                "order_lines",
                "orders",
            ] {
                tamper(&souk, &format!("DELETE FROM {table}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_read_in_pages_for_the_comparison_with_reservations() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let postage = souk.made(untracked("POST")).await;
        let mut expected = Vec::new();
        for (product, tracked) in [(&lantern, true), (&postage, false), (&lantern, true)] {
            let order = souk.confirmed(&[(product, 1)]).await;
            expected.push((order.name, tracked));
        }
        let db = souk.db().await;
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = sold_orders(&db, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.iter().map(|order| (order.id.name(), order.tracked)));
        }
        assert_eq!(found, expected);
        db.close();
    }
}
