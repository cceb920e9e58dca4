//! Code for SQLite alone: its types, and batch inserts with a single hop to a blocking thread. A write transaction
//! locks the whole file, so rows need no locks.

use std::collections::HashSet;

use diesel::{ExpressionMethods, QueryDsl, QueryResult, RunQueryDsl as Blocking};
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;
pub(super) use souk_store::events::sqlite::advance;
use souk_store::{db::Keep as _, events::sqlite::append_blocking};

/// The connection that queries run on.
pub type Conn = souk_store::db::sqlite::Conn;
pub use souk_store::db::sqlite::{STOPS_EARLY, padded, position};
/// The backend type of boxed queries.
pub type Backend = diesel::sqlite::Sqlite;

/// The type of ids in handwritten SQL.
pub type Id = diesel::sql_types::Binary;
/// The type of times in handwritten SQL.
pub type Time = diesel::sql_types::TimestamptzSqlite;
/// The payment key of order `o`, in SQL: the digits of the order's id.
pub(super) const ORDER_KEY: &str = "lower(hex(o.id))";
/// A join condition: payment `p` belongs to order `o`.
pub(super) const ORDER_OF_PAYMENT: &str = "o.id = unhex(p.key)";

/// An id that no row has, in SQL.
pub(super) const NIL: &str = "zeroblob(16)";

/// SQLite's tables.
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite, Json);
}

#[path = "queries/mod.rs"]
pub mod queries;

use crate::domain::State;
use queries::{After, Batch, DeliveryRow, Nth, PaymentRow, ReturnLineRow, ShipmentLineRow};

/// Locks an order until the transaction ends. `false` if it does not exist.
pub(super) async fn lock_order(conn: &mut Conn, id: OrderId) -> QueryResult<bool> {
    use diesel::OptionalExtension;
    let query = schema::orders::table.find(id).select(schema::orders::id);
    let found = RunQueryDsl::get_result::<OrderId>(query, conn).await.optional()?;
    Ok(found.is_some())
}

/// On PostgreSQL, skips rows that other transactions are claiming. SQLite has no concurrent writers, so this changes
/// nothing.
macro_rules! claimable {
    ($query:expr) => {
        $query
    };
}
pub(super) use claimable;

/// On PostgreSQL, locks the rows until the transaction ends. SQLite has no concurrent writers, so this changes nothing.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
pub(super) use locked;

pub(super) async fn insert_payments(conn: &mut Conn, rows: Vec<PaymentRow>) -> QueryResult<usize> {
    use schema::simulated_payments::dsl;
    conn.spawn_blocking(move |conn| {
        let mut new = 0;
        for row in rows {
            let insert = diesel::insert_into(dsl::simulated_payments).values(row).on_conflict(dsl::key).do_nothing();
            new += Blocking::execute(insert, conn)?;
        }
        Ok(new)
    })
    .await
}

/// Updates payments in one hop.
pub(super) async fn update_payments(conn: &mut Conn, rows: Vec<PaymentRow>) -> QueryResult<usize> {
    use schema::simulated_payments::dsl;
    conn.spawn_blocking(move |conn| {
        let mut changed = 0;
        for row in rows {
            let payment = dsl::simulated_payments.find(row.key.clone());
            changed += Blocking::execute(diesel::update(payment).set(row).kept(), conn)?;
        }
        Ok(changed)
    })
    .await
}

/// Writes a batch in one hop. It writes row by row, because such a statement is prepared only once. Returns the numbers
/// of the numbered writes that took effect (see [`Nth`]).
pub(super) async fn write(conn: &mut Conn, batch: Batch) -> QueryResult<HashSet<Nth>> {
    conn.spawn_blocking(move |conn| {
        let Batch { keys, orders, lines, updates, entries, events, answers, .. } = batch;
        let mut done = HashSet::new();
        for (nth, row) in keys {
            use schema::idempotency_keys::dsl;
            let insert = diesel::insert_into(dsl::idempotency_keys)
                .values(row)
                .on_conflict((dsl::caller, dsl::method, dsl::key))
                .do_nothing();
            if Blocking::execute(insert, conn)? == 1 {
                done.insert(nth);
            }
        }
        for (nth, update) in updates {
            use schema::{order_lines::dsl as lines, orders::dsl};
            let is_cancelled = update.values.state == State::Cancelled.code();
            let row = dsl::orders.find(update.id).filter(dsl::version.eq(update.version));
            let changed = match update.held {
                Some(held) => {
                    let row = row.filter(dsl::lease.eq(held));
                    Blocking::execute(diesel::update(row).set(update.values).kept(), conn)?
                }
                None => Blocking::execute(diesel::update(row).set(update.values).kept(), conn)?,
            };
            if changed == 1 {
                done.insert(nth);
            }
            if changed == 1 && is_cancelled {
                let lines = lines::order_lines.filter(lines::order_id.eq(update.id));
                let all = lines::cancelled.eq(lines::quantity - lines::returned);
                Blocking::execute(diesel::update(lines).set(all).kept(), conn)?;
            }
        }
        for row in after(orders, &done) {
            Blocking::execute(diesel::insert_into(schema::orders::table).values(row), conn)?;
        }
        for row in after(lines, &done) {
            Blocking::execute(diesel::insert_into(schema::order_lines::table).values(row), conn)?;
        }
        for row in after(entries, &done) {
            Blocking::execute(diesel::insert_into(schema::timeline_entries::table).values(row), conn)?;
        }
        append_blocking(conn, &after(events, &done).collect::<Vec<_>>())?;
        for answer in after(answers, &done) {
            use schema::idempotency_keys::dsl;
            let row = dsl::idempotency_keys.filter(dsl::order_id.eq(answer.order)).filter(dsl::method.eq("PlaceOrder"));
            Blocking::execute(diesel::update(row).set(dsl::response.eq(answer.response)).kept(), conn)?;
        }
        Ok(done)
    })
    .await
}

/// The rows to write, given the numbers of the writes that took effect.
fn after<T>(rows: Vec<After<T>>, done: &HashSet<Nth>) -> impl Iterator<Item = T> {
    rows.into_iter().filter(|row| row.nth.is_none_or(|nth| done.contains(&nth))).map(|row| row.row)
}

pub(super) async fn insert_return_lines(conn: &mut Conn, rows: Vec<ReturnLineRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| {
        Blocking::execute(diesel::insert_into(schema::return_lines::table).values(rows), conn)
    })
    .await
}

pub(super) async fn insert_shipment_lines(conn: &mut Conn, rows: Vec<ShipmentLineRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| {
        Blocking::execute(diesel::insert_into(schema::shipment_lines::table).values(rows), conn)
    })
    .await
}

pub(super) async fn insert_deliveries(conn: &mut Conn, rows: Vec<DeliveryRow>) -> QueryResult<()> {
    conn.spawn_blocking(move |conn| {
        for row in rows {
            Blocking::execute(diesel::insert_into(schema::webhook_deliveries::table).values(row), conn)?;
        }
        Ok(())
    })
    .await
}
