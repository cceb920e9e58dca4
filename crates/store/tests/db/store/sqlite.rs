//! Code for SQLite alone.

use diesel::{
    QueryResult, RunQueryDsl,
    sql_types::{BigInt, Binary, Text},
};
use souk_common::ids::UserId;

#[path = "queries.rs"]
pub mod queries;

pub type Conn = souk_store::db::sqlite::Conn;

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

/// A batch insert compiles only with plain diesel, not through the async wrapper.
pub async fn insert_entries(conn: &mut Conn, rows: Vec<queries::EntryRow>) -> QueryResult<usize> {
    conn.spawn_blocking(move |conn| diesel::insert_into(schema::entries::table).values(rows).execute(conn)).await
}

pub async fn cut_connections(_: &mut Conn) -> QueryResult<usize> {
    Ok(0)
}

/// Appends `count` events, three of which belong to the owner.
pub async fn fill_events(conn: &mut Conn, count: i64, owner: UserId, own: [i64; 3]) -> QueryResult<()> {
    let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1)
        INSERT INTO events (position, id, kind, subject, owner_id, data_type, data, created_at)
        SELECT n, randomblob(16), 'account.changed', 'accounts/' || n,
            CASE WHEN n IN ($2, $3, $4) THEN $5 ELSE randomblob(16) END, 'x', x'', '2026-01-31T12:00:00Z'
        FROM numbers";
    let [first, second, third] = own;
    let query = diesel::sql_query(fill)
        .bind::<BigInt, _>(count)
        .bind::<BigInt, _>(first)
        .bind::<BigInt, _>(second)
        .bind::<BigInt, _>(third)
        .bind::<Binary, _>(owner);
    diesel_async::RunQueryDsl::execute(query, conn).await.map(drop)
}

#[derive(diesel::QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// The plan of the query for an owner's events, one line each.
pub async fn plan(conn: &mut Conn, query: &str, owner: UserId) -> QueryResult<Vec<String>> {
    let explain = diesel::sql_query(format!("EXPLAIN QUERY PLAN {query}"));
    let bound = explain.bind::<Binary, _>(owner).bind::<BigInt, _>(0).bind::<BigInt, _>(50);
    let lines: Vec<Line> = diesel_async::RunQueryDsl::load(bound, conn).await?;
    Ok(lines.into_iter().map(|line| line.detail).collect())
}

pub async fn lose_events_after(conn: &mut Conn, position: i64) -> QueryResult<()> {
    for change in
        ["DELETE FROM events WHERE position > $1", "UPDATE sqlite_sequence SET seq = $1 WHERE name = 'events'"]
    {
        let query = diesel::sql_query(change).bind::<BigInt, _>(position);
        diesel_async::RunQueryDsl::execute(query, conn).await?;
    }
    Ok(())
}
