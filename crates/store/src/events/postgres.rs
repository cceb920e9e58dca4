//! The log in PostgreSQL. Several transactions write at a time and commit in any order, so positions are assigned after
//! the commit, by one transaction at a time.

use diesel::{
    QueryResult, sql_query,
    sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;

use super::{Checkpoint, Draft, Events};
use crate::db::{Keep, postgres::Statement};

pub(crate) type Conn = crate::db::postgres::Conn;
/// The type of an id in SQL text.
pub(crate) type Id = Uuid;

pub(crate) mod schema {
    super::super::log::tables!(Uuid, Timestamptz);
}

#[path = "queries.rs"]
pub(crate) mod queries;

/// Appends events to the log, in the transaction of the change that they record.
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

/// The SQL text that inserts events, as a part of a larger statement. The events are the statement's first seven
/// parameters, bound by [`bind`]. The macro's arguments name further parameters, their columns, and the condition that
/// selects the events to insert.
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
            // The order matters if two events have the same subject.
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

/// Moves a checkpoint to the last of these events, in the transaction that processes them. Returns `false` if the
/// checkpoint has moved: then another replica has processed the events, and the transaction must do nothing.
///
/// # Errors
/// If the database fails.
pub async fn advance(conn: &mut Conn, checkpoint: Checkpoint, events: &Events) -> QueryResult<bool> {
    let Some(last) = events.last() else { return Ok(false) };
    queries::advance(conn, checkpoint, last.position).await
}

/// True if events wait for a position.
pub(crate) async fn is_any_unplaced(conn: &mut Conn) -> QueryResult<bool> {
    use diesel::{ExpressionMethods, QueryDsl};
    let waiting = schema::events::table.filter(schema::events::position.is_null());
    diesel::select(diesel::dsl::exists(waiting)).get_result(conn).await
}

/// Assigns positions to committed events, at most `limit`. Returns the last assigned position, and how many were
/// assigned now.
///
/// A transaction writes an event while it holds the lock of the subject's row. So an earlier event of the subject was
/// committed by then and has a lower number: sorted by number, the visible events of a subject are in order.
pub(crate) async fn place(conn: &mut Conn, limit: i64) -> QueryResult<(i64, i64)> {
    // A separate statement, so that the next one sees what the previous holder of the lock has placed.
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

/// The last assigned position.
pub(crate) async fn head(conn: &mut Conn) -> QueryResult<i64> {
    let head: Head = sql_query("SELECT last FROM event_head").kept().get_result(conn).await?;
    Ok(head.last)
}
