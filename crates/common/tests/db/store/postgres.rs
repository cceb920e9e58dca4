//! What only PostgreSQL does.

use diesel::QueryResult;
use diesel_async::RunQueryDsl;

#[path = "queries.rs"]
pub mod queries;

pub type Conn = souk_common::db::postgres::Conn;

pub mod schema {
    diesel::table! {
        accounts (id) {
            id -> Uuid,
            email -> Text,
            balance -> BigInt,
            currency -> Text,
            created_at -> Timestamptz,
        }
    }
    diesel::table! {
        entries (account_id, number) {
            account_id -> Uuid,
            number -> Integer,
            amount -> BigInt,
        }
    }
    diesel::table! {
        use diesel::sql_types::*;
        events (position) {
            position -> BigInt,
            created_at -> Timestamptz,
        }
    }
}

pub async fn insert_entries(conn: &mut Conn, rows: Vec<queries::EntryRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::entries::table).values(rows).execute(conn).await
}

pub async fn cut_connections(conn: &mut Conn) -> QueryResult<usize> {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()";
    diesel::sql_query(cut).execute(conn).await
}
