//! What is PostgreSQL's own: its types, row locks and batch inserts.

use diesel::{QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;

/// The connection that queries run on.
pub type Conn = souk_common::db::postgres::Conn;
/// For boxed queries.
pub type Backend = diesel::pg::Pg;

/// Ids in SQL that is written by hand.
pub type Id = diesel::sql_types::Uuid;
/// The digits of an order's id, in SQL.
pub(super) const ORDER_KEY: &str = "replace(o.id::text, '-', '')";

/// The id of nothing, in SQL.
pub(super) const NIL: &str = "CAST('00000000-0000-0000-0000-000000000000' AS uuid)";

/// Its tables.
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz, Jsonb);
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
    let found = schema::orders::table
        .find(id)
        .select(schema::orders::id)
        .for_update()
        .get_result::<OrderId>(conn)
        .await
        .optional()?;
    Ok(found.is_some())
}

/// Makes what follows pass over rows that others are claiming.
macro_rules! claimable {
    ($query:expr) => {
        $query.for_update().skip_locked()
    };
}
use claimable;

pub(super) async fn insert_lines(conn: &mut Conn, rows: Vec<LineRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::order_lines::table).values(rows).execute(conn).await
}

pub(super) async fn insert_entries(conn: &mut Conn, rows: Vec<EntryRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::timeline_entries::table).values(rows).execute(conn).await
}

pub(super) async fn insert_return_lines(conn: &mut Conn, rows: Vec<ReturnLineRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::return_lines::table).values(rows).execute(conn).await
}
