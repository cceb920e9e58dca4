//! What is SQLite's own: its types, and batch inserts in one hop. A write transaction has the file to itself, so
//! there is nothing to lock.

use diesel::{QueryDsl, QueryResult, RunQueryDsl as Blocking};
use diesel_async::RunQueryDsl;
use souk_common::{
    events::{Draft, sqlite::append_blocking},
    ids::OrderId,
};

/// The connection that queries run on.
pub type Conn = souk_common::db::sqlite::Conn;
/// For boxed queries.
pub type Backend = diesel::sqlite::Sqlite;

/// Ids in SQL that is written by hand.
pub type Id = diesel::sql_types::Binary;
/// The digits of an order's id, in SQL.
pub(super) const ORDER_KEY: &str = "lower(hex(o.id))";

/// The id of nothing, in SQL.
pub(super) const NIL: &str = "zeroblob(16)";

/// Its tables.
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite, Json);
}

#[path = "audit.rs"]
pub mod audit;
#[path = "queries/mod.rs"]
pub mod queries;
#[path = "simulated.rs"]
pub mod simulated;
#[path = "stripe.rs"]
pub mod stripe;

use queries::{EntryRow, KeyRow, LineRow, OrderRow, OrderUpdate, ReturnLineRow, ShipmentLineRow};

/// Keeps others from changing an order until the transaction ends. Whether there is one.
pub(super) async fn lock_order(conn: &mut Conn, id: OrderId) -> QueryResult<bool> {
    use diesel::OptionalExtension;
    let query = schema::orders::table.find(id).select(schema::orders::id);
    let found = RunQueryDsl::get_result::<OrderId>(query, conn).await.optional()?;
    Ok(found.is_some())
}

/// Makes what follows pass over rows that others are claiming: nobody can.
macro_rules! claimable {
    ($query:expr) => {
        $query
    };
}
use claimable;

/// Keeps others from changing the rows until the transaction ends: nobody can.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
use locked;

pub(super) async fn insert_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> QueryResult<usize> {
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

/// Changes payments, in one hop.
pub(super) async fn update_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> QueryResult<usize> {
    use schema::simulated_payments::dsl;
    conn.spawn_blocking(move |conn| {
        let mut changed = 0;
        for row in rows {
            let payment = dsl::simulated_payments.find(row.key.clone());
            changed += Blocking::execute(diesel::update(payment).set(row), conn)?;
        }
        Ok(changed)
    })
    .await
}

/// Remembers keys; answers with the orders of those that were new.
pub(super) async fn insert_keys(conn: &mut Conn, rows: Vec<KeyRow>) -> QueryResult<Vec<OrderId>> {
    use schema::idempotency_keys::dsl;
    conn.spawn_blocking(move |conn| {
        let mut new = Vec::with_capacity(rows.len());
        for row in rows {
            let order = row.order_id;
            let insert = diesel::insert_into(dsl::idempotency_keys)
                .values(row)
                .on_conflict((dsl::caller, dsl::method, dsl::key))
                .do_nothing();
            if Blocking::execute(insert, conn)? == 1 {
                new.push(order);
            }
        }
        Ok(new)
    })
    .await
}

/// Inserts orders with their lines, in one hop. Row by row, for such a statement is prepared once.
pub(super) async fn insert_orders(conn: &mut Conn, orders: Vec<OrderRow>, lines: Vec<LineRow>) -> QueryResult<()> {
    conn.spawn_blocking(move |conn| {
        for row in orders {
            Blocking::execute(diesel::insert_into(schema::orders::table).values(row), conn)?;
        }
        for row in lines {
            Blocking::execute(diesel::insert_into(schema::order_lines::table).values(row), conn)?;
        }
        Ok(())
    })
    .await
}

/// Changes orders, in one hop; says of each whether it was still as expected.
pub(super) async fn update_orders(conn: &mut Conn, updates: Vec<OrderUpdate>) -> QueryResult<Vec<bool>> {
    use diesel::ExpressionMethods;
    use schema::orders::dsl;
    conn.spawn_blocking(move |conn| {
        let mut written = Vec::with_capacity(updates.len());
        for OrderUpdate { id, version, held, values } in updates {
            let row = dsl::orders.find(id).filter(dsl::version.eq(version));
            let changed = match held {
                Some(held) => Blocking::execute(diesel::update(row.filter(dsl::lease.eq(held))).set(values), conn)?,
                None => Blocking::execute(diesel::update(row).set(values), conn)?,
            };
            written.push(changed == 1);
        }
        Ok(written)
    })
    .await
}

/// Writes entries of timelines, events, and the answers to the requests that made orders, in one hop.
pub(super) async fn record(
    conn: &mut Conn,
    entries: Vec<EntryRow>,
    events: Vec<Draft>,
    answers: Vec<(OrderId, Vec<u8>)>,
) -> QueryResult<()> {
    use diesel::ExpressionMethods;
    use schema::idempotency_keys::dsl;
    conn.spawn_blocking(move |conn| {
        for row in entries {
            Blocking::execute(diesel::insert_into(schema::timeline_entries::table).values(row), conn)?;
        }
        append_blocking(conn, &events)?;
        for (order, response) in answers {
            let row = dsl::idempotency_keys.filter(dsl::order_id.eq(order)).filter(dsl::method.eq("PlaceOrder"));
            Blocking::execute(diesel::update(row).set(dsl::response.eq(response)), conn)?;
        }
        Ok(())
    })
    .await
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
