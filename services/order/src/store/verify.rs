//! Checks of the promises on live data, for `souk verify`.

use souk_common::ids::OrderId;
use souk_store::{
    db::{self, Db},
    verify::Check,
};
use uuid::Uuid;

use super::{postgres, sqlite};
use crate::{domain::State, error::Error};

/// A promise: a condition that must hold at every commit.
pub(super) struct Promise {
    pub name: &'static str,
    /// The rows that the promise covers, as a `FROM` clause.
    pub counted: &'static str,
    /// A query that finds violations: the order's `id`, and `why`. `{key}` is the key of order `o`'s payment, for a
    /// join from orders to payments. `{is_of}` is the condition of a join from payments `p` to their orders `o`.
    /// `{nil}` is an id that no order has. An index serves each of these joins: without one, the check takes hours in a
    /// large shop.
    pub broken: &'static str,
}

/// An order, with the facts that its reservation must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoldOrder {
    /// The id of the order, which is also the id of its reservation.
    pub id: OrderId,
    /// The state of the order.
    pub state: State,
    /// True if the order has goods whose stock is tracked. It then has a reservation once it is confirmed.
    pub tracked: bool,
}

/// Checks all promises in one snapshot.
///
/// # Errors
/// If the database fails. A broken promise is not an error but a [`Check`] that does not hold.
pub async fn verify(db: &Db) -> Result<Vec<Check>, Error> {
    db::snapshot!(db, |conn, q| -> Result<Vec<Check>, Error> {
        let mut checks = Vec::with_capacity(PROMISES.len());
        for promise in PROMISES {
            checks.push(q::check_promise(conn, promise).await?);
        }
        Ok(checks)
    })
}

/// A page of all orders by id, for the comparison with inventory's reservations. It begins after `after`, or with the
/// first order if that is `None`. Empty at the end.
///
/// # Errors
/// If the database fails.
pub async fn sold_orders(db: &Db, after: Option<OrderId>, limit: i64) -> Result<Vec<SoldOrder>, Error> {
    let after = after.unwrap_or(OrderId::from_uuid(Uuid::nil()));
    db::read!(db, |conn, q| -> Result<Vec<SoldOrder>, Error> { q::sold_orders(conn, after, limit).await })
}

/// The given ids for which an order exists, in no order. Pass at most a few thousand.
///
/// # Errors
/// If the database fails.
pub async fn known_orders(db: &Db, ids: &[OrderId]) -> Result<Vec<OrderId>, Error> {
    db::read!(db, |conn, q| -> Result<Vec<OrderId>, Error> { q::known_orders(conn, ids).await })
}

const PROMISES: &[Promise] = &[
    Promise {
        name: "every order is final, or leased, or due for the job",
        counted: "orders",
        broken: "SELECT o.id, 'is ' || o.state || ' at step ' || coalesce(o.step, 'none') AS why FROM orders o
            WHERE (o.state IN ('PENDING', 'CANCELLING')) <> (o.step IS NOT NULL)
                OR (o.step IS NOT NULL) <> (o.due_at IS NOT NULL)
                OR (o.step IS NULL AND o.lease IS NOT NULL)",
    },
    Promise {
        name: "every return, cancellation of pieces and refund is done, or leased, or due for the job",
        counted: "returns",
        broken: "SELECT r.order_id AS id, 'has a ' || r.cause || ' that is ' || r.state AS why FROM returns r
            WHERE (r.state = 'RETURNING') <> (r.step IS NOT NULL)
                OR (r.step IS NOT NULL) <> (r.due_at IS NOT NULL)",
    },
    Promise {
        name: "an order's count of returns, cancellations and refunds under way is right, and their money",
        counted: "orders",
        broken: "SELECT o.id, 'counts ' || o.pending_returns || ' under way, of ' || o.refunding_minor AS why
            FROM orders o LEFT JOIN (
                SELECT order_id, count(*) AS running, sum(refund_minor) AS refund FROM returns
                WHERE state = 'RETURNING' GROUP BY order_id
            ) r ON r.order_id = o.id
            WHERE o.pending_returns <> coalesce(r.running, 0) OR o.refunding_minor <> coalesce(r.refund, 0)",
    },
    Promise {
        name: "totals are the sums of their lines",
        counted: "orders",
        broken: "SELECT o.id, 'has a total of ' || o.total_minor AS why
            FROM orders o LEFT JOIN (
                SELECT order_id, sum(total_minor) AS total,
                    sum(CASE WHEN total_minor = quantity * unit_price_minor THEN 0 ELSE 1 END) AS wrong
                FROM order_lines GROUP BY order_id
            ) l ON l.order_id = o.id
            WHERE l.order_id IS NULL OR l.total <> o.total_minor OR l.wrong > 0",
    },
    Promise {
        name: "every line has its order",
        counted: "order_lines",
        broken: "SELECT l.order_id AS id, 'does not exist and has line ' || l.number AS why
            FROM order_lines l LEFT JOIN orders o ON o.id = l.order_id
            WHERE o.id IS NULL",
    },
    Promise {
        name: "each confirmed order has exactly one captured payment of its total",
        counted: "orders o WHERE o.state IN ('CONFIRMED', 'CANCELLING', 'CANCELLED')",
        broken: "SELECT o.id, 'payment here ' || coalesce(o.payment_state, 'none')
                || ', at the provider ' || coalesce(p.state || ' of ' || p.amount_minor, 'none') AS why
            FROM orders o LEFT JOIN simulated_payments p ON p.key = {key}
            WHERE o.state IN ('CONFIRMED', 'CANCELLING', 'CANCELLED') AND (
                o.payment_state IS NULL OR o.payment_state NOT IN ('CAPTURED', 'REFUNDED')
                OR (o.payment_provider = 'simulated' AND (
                    p.key IS NULL OR (p.state <> 'CAPTURED' AND NOT o.payment_settled_manually) OR p.amount_minor <> o.total_minor
                    OR p.currency <> o.currency OR p.reference <> o.payment_reference
                ))
            )",
    },
    Promise {
        name: "each payment at Stripe was recorded before it was authorised, and belongs to its order",
        counted: "orders o WHERE o.payment_provider = 'stripe'",
        broken: "SELECT o.id, 'payment here ' || coalesce(o.payment_reference, 'none')
                || ', written down ' || coalesce(s.intent, 'none') AS why
            FROM orders o LEFT JOIN stripe_payments s ON s.key = {key}
            WHERE o.payment_provider = 'stripe' AND o.payment_state <> 'DECLINED'
                AND ((s.key IS NULL AND NOT (o.payment_settled_manually AND o.payment_reference = ''))
                    OR (o.payment_reference <> '' AND coalesce(s.intent, '') <> o.payment_reference))",
    },
    Promise {
        name: "every payment at Stripe has its order",
        counted: "stripe_payments",
        broken: "SELECT {nil} AS id, coalesce(p.intent, 'nothing') || ' belongs to no order' AS why
            FROM stripe_payments p LEFT JOIN orders o ON {is_of}
            WHERE o.id IS NULL",
    },
    Promise {
        name: "what could not be placed holds and keeps no money",
        counted: "orders o WHERE o.state = 'REJECTED'",
        broken: "SELECT o.id, 'payment here ' || coalesce(o.payment_state, 'none')
                || ', at the provider ' || coalesce(p.state, 'none') AS why
            FROM orders o LEFT JOIN simulated_payments p ON p.key = {key}
            WHERE o.state = 'REJECTED' AND (
                o.payment_state IN ('AUTHORIZED', 'CAPTURED', 'REFUNDED')
                OR (p.state IN ('AUTHORIZED', 'CAPTURED') AND NOT o.payment_settled_manually)
            )",
    },
    Promise {
        name: "what was cancelled is refunded to the last penny, and all its goods are back",
        counted: "orders o WHERE o.state = 'CANCELLED'",
        broken: "SELECT o.id, 'refunded ' || o.refunded_minor || ' of ' || o.total_minor AS why
            FROM orders o LEFT JOIN simulated_payments p ON p.key = {key}
            WHERE o.state = 'CANCELLED' AND (
                o.refunded_minor <> o.total_minor
                OR p.refunded_minor NOT BETWEEN o.total_minor - o.refunded_manually_minor AND o.total_minor
                OR EXISTS (
                    SELECT 1 FROM order_lines l WHERE l.order_id = o.id AND l.returned + l.cancelled <> l.quantity
                )
            )",
    },
    Promise {
        name: "no final order has an open authorisation",
        counted: "simulated_payments",
        broken: "SELECT o.id, 'an authorisation hangs' AS why
            FROM simulated_payments p JOIN orders o ON {is_of}
            WHERE p.state = 'AUTHORIZED' AND o.state <> 'PENDING' AND NOT o.payment_settled_manually",
    },
    Promise {
        name: "every payment at the provider has its order",
        counted: "simulated_payments",
        broken: "SELECT {nil} AS id, 'the provider knows ' || p.reference || ' without an order' AS why
            FROM simulated_payments p LEFT JOIN orders o ON {is_of}
            WHERE o.id IS NULL",
    },
    Promise {
        name: "refunds match the returns, cancellations and refunds, and never exceed the captured amount",
        counted: "orders o WHERE o.state = 'CONFIRMED'",
        broken: "SELECT o.id, 'refunded here ' || o.refunded_minor || ', by its parts ' || coalesce(r.refund, 0)
                || ', at the provider ' || coalesce(p.refunded_minor, 0) AS why
            FROM orders o
            LEFT JOIN simulated_payments p ON p.key = {key}
            LEFT JOIN (
                SELECT order_id, sum(refund_minor) AS refund FROM returns
                WHERE state = 'COMPLETED' GROUP BY order_id
            ) r ON r.order_id = o.id
            LEFT JOIN (
                SELECT payment, sum(amount_minor) AS amount FROM simulated_refunds GROUP BY payment
            ) s ON s.payment = p.key
            WHERE o.state = 'CONFIRMED' AND (
                o.refunded_minor <> coalesce(r.refund, 0)
                OR coalesce(p.refunded_minor, 0) <> coalesce(s.amount, 0)
                OR (o.payment_provider = 'simulated' AND o.pending_returns = 0
                    AND coalesce(p.refunded_minor, 0)
                        NOT BETWEEN o.refunded_minor - o.refunded_manually_minor AND o.refunded_minor)
                OR coalesce(p.refunded_minor, 0) > o.total_minor
            )",
    },
    Promise {
        // This promise checks the manually settled payments, which the promises above exclude.
        name: "manual settlements match the operators' entries, and their amounts add up",
        counted: "timeline_entries t WHERE t.kind = 'FINISHED_MANUALLY'",
        broken: "SELECT o.id, 'has ' || coalesce(t.found, 0) || ' entries of it, ' || coalesce(r.found, 0)
                || ' returns, and ' || o.refunded_manually_minor || ' given back' AS why
            FROM orders o
            LEFT JOIN (
                SELECT f.order_id, count(*) AS found,
                    sum(CASE WHEN d.kind IN ('PAYMENT_CAPTURED', 'PAYMENT_VOIDED') THEN 1 ELSE 0 END) AS settled,
                    sum(CASE WHEN d.kind = 'PAYMENT_REFUNDED' THEN 1 ELSE 0 END) AS refunds
                FROM timeline_entries f
                LEFT JOIN timeline_entries d
                    ON d.order_id = f.order_id AND d.number = f.number + 1 AND d.actor = f.actor
                WHERE f.kind = 'FINISHED_MANUALLY' GROUP BY f.order_id
            ) t ON t.order_id = o.id
            LEFT JOIN (
                SELECT order_id, sum(refund_minor) AS refund, sum(CASE WHEN settled_manually THEN 1 ELSE 0 END) AS found,
                    sum(CASE WHEN settled_manually THEN refund_minor ELSE 0 END) AS settled_refund
                FROM returns WHERE state = 'COMPLETED' GROUP BY order_id
            ) r ON r.order_id = o.id
            WHERE coalesce(t.found, 0) <> coalesce(t.settled + t.refunds, 0)
                OR coalesce(t.settled, 0) <> (CASE WHEN o.payment_settled_manually THEN 1 ELSE 0 END)
                -- The refund of a cancelled order is its own saga's, and of all that others left.
                OR coalesce(t.refunds, 0) - coalesce(r.found, 0)
                    NOT BETWEEN 0 AND (CASE WHEN o.state = 'CANCELLED' THEN 1 ELSE 0 END)
                OR o.refunded_manually_minor <> coalesce(r.settled_refund, 0)
                    + (coalesce(t.refunds, 0) - coalesce(r.found, 0)) * (o.total_minor - coalesce(r.refund, 0))",
    },
    Promise {
        name: "pieces that came back or were cancelled are those of the returns and cancellations",
        counted: "order_lines l JOIN orders o ON o.id = l.order_id WHERE o.state = 'CONFIRMED'",
        broken: "SELECT o.id, 'line ' || l.number || ' has ' || l.returned || ' pieces back, '
                || l.cancelled || ' cancelled' AS why
            FROM order_lines l
            JOIN orders o ON o.id = l.order_id
            LEFT JOIN (
                SELECT r.order_id, rl.line_number,
                    sum(CASE WHEN r.cause = 'RETURN' THEN rl.quantity ELSE 0 END) AS returned,
                    sum(CASE WHEN r.cause = 'CANCELLATION' THEN rl.quantity ELSE 0 END) AS cancelled
                FROM return_lines rl JOIN returns r ON r.id = rl.return_id
                GROUP BY r.order_id, rl.line_number
            ) b ON b.order_id = l.order_id AND b.line_number = l.number
            WHERE o.state = 'CONFIRMED'
                AND (l.returned <> coalesce(b.returned, 0) OR l.cancelled <> coalesce(b.cancelled, 0))",
    },
    Promise {
        name: "pieces that were shipped are those of the shipments, and none was cancelled or never bought",
        counted: "order_lines",
        broken: "SELECT o.id, 'line ' || l.number || ' has ' || l.shipped || ' of ' || l.quantity
                || ' pieces shipped' AS why
            FROM order_lines l
            JOIN orders o ON o.id = l.order_id
            LEFT JOIN (
                SELECT s.order_id, sl.line_number, sum(sl.quantity) AS quantity
                FROM shipment_lines sl JOIN shipments s ON s.id = sl.shipment_id
                GROUP BY s.order_id, sl.line_number
            ) b ON b.order_id = l.order_id AND b.line_number = l.number
            WHERE l.shipped <> coalesce(b.quantity, 0)
                OR (l.shipped > 0 AND o.state <> 'CONFIRMED')
                OR l.returned_shipped > l.shipped OR l.returned_shipped > l.returned
                OR l.shipped + l.cancelled + l.returned - l.returned_shipped > l.quantity",
    },
    Promise {
        name: "timelines are whole and end as their orders did",
        counted: "timeline_entries",
        broken: "SELECT o.id, 'has ' || coalesce(t.found, 0) || ' entries of ' || o.entries AS why
            FROM orders o LEFT JOIN (
                SELECT order_id, count(*) AS found, max(number) AS last,
                    sum(CASE WHEN kind IN ('CONFIRMED', 'REJECTED') THEN 1 ELSE 0 END) AS placed,
                    sum(CASE WHEN kind = 'CANCELLED' THEN 1 ELSE 0 END) AS cancelled
                FROM timeline_entries GROUP BY order_id
            ) t ON t.order_id = o.id
            WHERE coalesce(t.found, 0) <> o.entries OR t.last <> o.entries
                OR t.placed <> (CASE WHEN o.state = 'PENDING' THEN 0 ELSE 1 END)
                OR t.cancelled <> (CASE WHEN o.state = 'CANCELLED' THEN 1 ELSE 0 END)",
    },
    Promise {
        name: "every entry of a timeline has its order",
        counted: "timeline_entries",
        broken: "SELECT t.order_id AS id, 'does not exist and has entry ' || t.number AS why
            FROM timeline_entries t LEFT JOIN orders o ON o.id = t.order_id
            WHERE o.id IS NULL",
    },
    Promise {
        name: "every idempotency record refers to its order or adjustment, and has a response once that is final",
        counted: "idempotency_keys",
        broken: "SELECT i.order_id AS id, 'key ' || i.key || ' of ' || i.method AS why
            FROM idempotency_keys i
            LEFT JOIN orders o ON o.id = i.order_id
            LEFT JOIN returns r ON r.id = i.return_id
            WHERE o.id IS NULL OR (i.return_id IS NOT NULL AND r.id IS NULL)
                OR (i.response IS NULL AND i.return_id IS NULL AND (o.state <> 'PENDING' OR i.method <> 'PlaceOrder'))
                OR (i.response IS NULL AND r.state = 'COMPLETED')
                OR (i.response IS NOT NULL AND i.method = 'PlaceOrder' AND o.state = 'PENDING')
                OR (i.response IS NOT NULL AND r.state = 'RETURNING')",
    },
    Promise {
        name: "payment tokens are kept no longer than they are needed",
        counted: "orders",
        broken: "SELECT o.id, 'still has its payment token at step ' || coalesce(o.step, 'none') AS why FROM orders o
            WHERE o.payment_token IS NOT NULL
                AND (o.step IS NULL OR o.state <> 'PENDING' OR o.step NOT IN ('RESERVE', 'AUTHORIZE'))",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use diesel::{
        prelude::*,
        sql_types::{Integer, Text},
    };
    use souk_testkit::db::{Engine, database};

    use super::*;
    use crate::store::Store;

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Integer)]
        parent: i32,
        #[diesel(sql_type = Text)]
        detail: String,
    }

    /// SQLite joins with nested loops. If an inner loop scans a whole table or subquery for each row of the outer one,
    /// the check takes quadratic time.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_check_scans_a_table_for_each_row_of_another_table() {
        let database = database(Engine::Sqlite, "order").await;
        let config = db::Config { url: database.url.clone(), ..db::Config::default() };
        Store::open(&config, std::path::Path::new(".")).await.unwrap().close().await;
        let mut conn = SqliteConnection::establish(database.url.trim_start_matches("sqlite:")).unwrap();
        for promise in PROMISES {
            let plan = format!("EXPLAIN QUERY PLAN {}", crate::store::sqlite::queries::verify::broken(promise));
            let steps: Vec<Step> = diesel::sql_query(plan).load(&mut conn).unwrap();
            let mut joined = HashSet::new();
            for Step { parent, detail } in
                steps.iter().filter(|step| step.detail.starts_with("SCAN") || step.detail.starts_with("SEARCH"))
            {
                let is_inner = !joined.insert(parent);
                assert!(!(is_inner && detail.starts_with("SCAN")), "{}: {detail}", promise.name);
            }
        }
    }
}
