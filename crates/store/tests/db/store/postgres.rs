//! Code for PostgreSQL alone.

use diesel::{
    QueryResult,
    sql_types::{Array, BigInt, Text, Uuid},
};
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;

#[path = "queries.rs"]
pub mod queries;

pub type Conn = souk_store::db::postgres::Conn;

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

/// Appends `count` events, three of which belong to the owner.
pub async fn fill_events(conn: &mut Conn, count: i64, owner: UserId, own: [i64; 3]) -> QueryResult<()> {
    let fill = "INSERT INTO events (position, id, kind, subject, owner_id, data_type, data, created_at)
        SELECT n, gen_random_uuid(), 'account.changed', 'accounts/' || n,
            CASE WHEN n = ANY ($3) THEN $2 ELSE gen_random_uuid() END, 'x', '', now()
        FROM generate_series(1, $1) AS n";
    diesel::sql_query(fill)
        .bind::<BigInt, _>(count)
        .bind::<Uuid, _>(owner)
        .bind::<Array<BigInt>, _>(own.to_vec())
        .execute(conn)
        .await?;
    diesel::sql_query("UPDATE event_head SET last = $1").bind::<BigInt, _>(count).execute(conn).await?;
    diesel::sql_query("ANALYZE events").execute(conn).await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Line {
    #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
    text: String,
}

/// The plan of the query for an owner's events, one line each.
pub async fn plan(conn: &mut Conn, query: &str, owner: UserId) -> QueryResult<Vec<String>> {
    let explain = diesel::sql_query(format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}"));
    let bound = explain.bind::<Uuid, _>(owner).bind::<BigInt, _>(0).bind::<BigInt, _>(50);
    let lines: Vec<Line> = bound.load(conn).await?;
    Ok(lines.into_iter().map(|line| line.text).collect())
}

pub async fn lose_events_after(conn: &mut Conn, position: i64) -> QueryResult<()> {
    diesel::sql_query("DELETE FROM events WHERE position > $1").bind::<BigInt, _>(position).execute(conn).await?;
    diesel::sql_query("UPDATE event_head SET last = $1").bind::<BigInt, _>(position).execute(conn).await?;
    Ok(())
}
