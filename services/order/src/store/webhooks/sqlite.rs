//! SQLite: its types. A write transaction has the file to itself, so there is nothing to lock.

use diesel::RunQueryDsl;

pub(super) type Conn = souk_store::db::sqlite::Conn;
pub(super) type Backend = diesel::sqlite::Sqlite;
pub(super) type Id = diesel::sql_types::Binary;
pub(super) type Time = diesel::sql_types::TimestamptzSqlite;
pub(super) use souk_store::events::sqlite::advance;

pub(super) mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite, Json);
}
#[path = "queries/mod.rs"]
pub(super) mod queries;

use crate::store::sqlite::{claimable, locked};

pub(super) async fn insert(conn: &mut Conn, rows: Vec<queries::DeliveryRow>) -> diesel::QueryResult<()> {
    conn.spawn_blocking(move |conn| {
        for row in rows {
            diesel::insert_into(schema::webhook_deliveries::table).values(row).execute(conn)?;
        }
        Ok(())
    })
    .await
}
