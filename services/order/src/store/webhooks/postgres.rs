//! PostgreSQL: its types and its row locks.

use diesel_async::RunQueryDsl;

pub(super) type Conn = souk_store::db::postgres::Conn;
pub(super) type Backend = diesel::pg::Pg;
pub(super) type Id = diesel::sql_types::Uuid;
pub(super) type Time = diesel::sql_types::Timestamptz;
pub(super) use souk_store::events::postgres::advance;

pub(super) mod schema {
    super::super::schema::tables!(Uuid, Timestamptz, Jsonb);
}
#[path = "queries/mod.rs"]
pub(super) mod queries;

use crate::store::postgres::{claimable, locked};

pub(super) async fn insert(conn: &mut Conn, rows: Vec<queries::DeliveryRow>) -> diesel::QueryResult<()> {
    // A statement has 65,535 parameters at most.
    for rows in rows.chunks(1000) {
        diesel::insert_into(schema::webhook_deliveries::table).values(rows).execute(conn).await?;
    }
    Ok(())
}
