//! What only SQLite does.

use diesel::{QueryResult, RunQueryDsl};

#[path = "queries.rs"]
pub mod queries;

pub type Conn = souk_common::db::sqlite::Conn;

pub mod schema {
    diesel::table! {
        accounts (id) {
            id -> Binary,
            email -> Text,
            balance -> BigInt,
            currency -> Text,
            created_at -> TimestamptzSqlite,
        }
    }
    diesel::table! {
        entries (account_id, number) {
            account_id -> Binary,
            number -> Integer,
            amount -> BigInt,
        }
    }
    diesel::table! {
        use diesel::sql_types::*;
        events (position) {
            position -> BigInt,
            created_at -> TimestamptzSqlite,
        }
    }
}

/// A batch does not compile through the async wrapper, but with plain diesel.
pub async fn insert_entries(conn: &mut Conn, rows: Vec<queries::EntryRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| diesel::insert_into(schema::entries::table).values(rows).execute(conn)).await
}

pub async fn cut_connections(_: &mut Conn) -> QueryResult<usize> {
    Ok(0)
}
