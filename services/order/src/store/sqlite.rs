//! What is SQLite's own: its types, and batch inserts in one hop. A write transaction has the file to itself, so
//! there is nothing to lock.

use diesel::{QueryDsl, QueryResult, RunQueryDsl as Blocking};
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;

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
#[path = "queries.rs"]
pub mod queries;
#[path = "simulated.rs"]
pub mod simulated;

use queries::{EntryRow, LineRow, ReturnLineRow};

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

pub(super) async fn insert_lines(conn: &mut Conn, rows: Vec<LineRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| {
        Blocking::execute(diesel::insert_into(schema::order_lines::table).values(rows), conn)
    })
    .await
}

pub(super) async fn insert_entries(conn: &mut Conn, rows: Vec<EntryRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| {
        Blocking::execute(diesel::insert_into(schema::timeline_entries::table).values(rows), conn)
    })
    .await
}

pub(super) async fn insert_return_lines(conn: &mut Conn, rows: Vec<ReturnLineRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| {
        Blocking::execute(diesel::insert_into(schema::return_lines::table).values(rows), conn)
    })
    .await
}
