//! The log in PostgreSQL. Several transactions write at a time and commit in an order of their own, so a position is
//! given afterwards, by one at a time.

use diesel::{
    QueryResult, sql_query,
    sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;

use super::{Checkpoint, Draft, Events};
use crate::db::postgres::{Keep, Statement};

pub(crate) type Conn = crate::db::postgres::Conn;
/// Ids in SQL that is written as text.
pub(crate) type Id = Uuid;

pub(crate) mod schema {
    super::super::log::tables!(Uuid, Timestamptz);
}

#[path = "queries.rs"]
pub(crate) mod queries;

/// Adds events to the log as part of the transaction that makes them so.
///
/// # Errors
/// If the database fails.
pub async fn append(mut conn: &Conn, drafts: &[Draft]) -> QueryResult<()> {
    if drafts.is_empty() {
        return Ok(());
    }
    let insert = sql_query(crate::__insert_events!("", "", "")).into_boxed();
    bind(insert, drafts).kept().execute(&mut conn).await?;
    Ok(())
}

/// The text of a statement that adds events, to be part of a larger one. They are its first seven parameters, by [`bind`]; of
/// further parameters that belong to them it says which, how they are called, and which events are added.
#[doc(hidden)]
#[macro_export]
macro_rules! __insert_events {
    ($parameters:literal, $columns:literal, $condition:literal) => {
        concat!(
            "INSERT INTO events (id, kind, subject, owner_id, data_type, data, created_at)
             SELECT id, kind, subject, owner_id, data_type, data, created_at
             FROM unnest($1, $2, $3, $4, $5, $6, $7",
            $parameters,
            ") WITH ORDINALITY AS new (id, kind, subject, owner_id, data_type, data, created_at",
            $columns,
            ", number) ",
            $condition,
            // That of two events about one subject matters.
            " ORDER BY number"
        )
    };
}
pub use crate::__insert_events as insert_events;

/// Binds events to the first seven parameters of a statement.
pub fn bind<'a>(query: Statement<'a>, drafts: &'a [Draft]) -> Statement<'a> {
    let text = |field: fn(&Draft) -> &str| drafts.iter().map(field).collect::<Vec<_>>();
    query
        .bind::<Array<Uuid>, _>(drafts.iter().map(|draft| draft.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(text(|draft| draft.kind))
        .bind::<Array<Text>, _>(text(|draft| &draft.subject))
        .bind::<Array<Nullable<Uuid>>, _>(drafts.iter().map(|draft| draft.owner).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(text(|draft| &draft.data_type))
        .bind::<Array<Binary>, _>(drafts.iter().map(|draft| draft.data.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(drafts.iter().map(|draft| draft.time).collect::<Vec<_>>())
}

#[derive(diesel::QueryableByName)]
struct Head {
    #[diesel(sql_type = BigInt)]
    last: i64,
}

/// Moves a checkpoint behind the last of these events, as part of the transaction that acts on them. `false` if the
/// checkpoint is elsewhere by now: then somebody else has acted on them, and the transaction must do nothing.
///
/// # Errors
/// If the database fails.
pub async fn advance(conn: &mut Conn, checkpoint: Checkpoint, events: &Events) -> QueryResult<bool> {
    let Some(last) = events.last() else { return Ok(false) };
    queries::advance(conn, checkpoint, last.position).await
}

/// Whether events wait for a position.
pub(crate) async fn is_any_unplaced(conn: &mut Conn) -> QueryResult<bool> {
    use diesel::{ExpressionMethods, QueryDsl};
    let waiting = schema::events::table.filter(schema::events::position.is_null());
    diesel::select(diesel::dsl::exists(waiting)).get_result(conn).await
}

/// Gives events that are committed their positions, at most `limit`. Returns the last position given, and how many it
/// gave now.
///
/// An event about a subject is written while its transaction holds the subject's row, so the one before it was
/// committed by then, and has a lower number: by number, what is there to see is in order.
pub(crate) async fn place(conn: &mut Conn, limit: i64) -> QueryResult<(i64, i64)> {
    // A statement of its own: the next one then sees what whoever held the lock before has placed.
    let head: Head = sql_query("SELECT last FROM event_head FOR UPDATE").kept().get_result(conn).await?;
    let placed: Head = sql_query(
        "WITH waiting AS (
            SELECT number, row_number() OVER (ORDER BY number) AS nth
            FROM (SELECT number FROM events WHERE position IS NULL ORDER BY number LIMIT $2) AS oldest
         ), placed AS (
            UPDATE events SET position = $1 + nth FROM waiting WHERE events.number = waiting.number RETURNING 1
         )
         UPDATE event_head SET last = $1 + (SELECT count(*) FROM placed) RETURNING last",
    )
    .bind::<BigInt, _>(head.last)
    .bind::<BigInt, _>(limit)
    .kept()
    .get_result(conn)
    .await?;
    Ok((placed.last, placed.last - head.last))
}

/// The last position given.
pub(crate) async fn head(conn: &mut Conn) -> QueryResult<i64> {
    let head: Head = sql_query("SELECT last FROM event_head").kept().get_result(conn).await?;
    Ok(head.last)
}
