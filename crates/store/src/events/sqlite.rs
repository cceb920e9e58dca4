//! The log in SQLite. One transaction writes at a time, so the row's number is the position.

use diesel::{ExpressionMethods, QueryResult, RunQueryDsl as Blocking, sql_query, sql_types::BigInt};
use diesel_async::RunQueryDsl;

use super::{Checkpoint, Draft, Events};

pub(crate) type Conn = crate::db::sqlite::Conn;
/// Ids in SQL that is written as text.
pub(crate) type Id = diesel::sql_types::Binary;

pub(crate) mod schema {
    super::super::log::tables!(Binary, TimestamptzSqlite);
}

#[path = "queries.rs"]
pub(crate) mod queries;

/// Adds events to the log as part of the transaction that makes them so.
///
/// # Errors
/// If the database fails.
pub async fn append(conn: &mut Conn, drafts: &[Draft]) -> QueryResult<()> {
    if drafts.is_empty() {
        return Ok(());
    }
    let drafts = drafts.to_vec();
    conn.spawn_blocking(move |conn| append_blocking(conn, &drafts)).await
}

/// [`append`] for code that is on a blocking thread already.
///
/// # Errors
/// If the database fails.
pub fn append_blocking(conn: &mut diesel::SqliteConnection, drafts: &[Draft]) -> QueryResult<()> {
    use schema::events::dsl;
    for draft in drafts {
        let row = (
            dsl::id.eq(draft.id),
            dsl::kind.eq(draft.kind),
            dsl::subject.eq(&draft.subject),
            dsl::owner_id.eq(draft.owner),
            dsl::data_type.eq(&draft.data_type),
            dsl::data.eq(&draft.data),
            dsl::created_at.eq(draft.time),
        );
        Blocking::execute(diesel::insert_into(dsl::events).values(row), conn)?;
    }
    Ok(())
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

/// Whether events wait for a position: they have it from the start.
pub(crate) async fn is_any_unplaced(_: &mut Conn) -> QueryResult<bool> {
    Ok(false)
}

/// Gives events their positions: they have them from the start.
pub(crate) async fn place(conn: &mut Conn, _: i64) -> QueryResult<(i64, i64)> {
    Ok((head(conn).await?, 0))
}

/// The last position given, whether or not its event is still kept.
pub(crate) async fn head(conn: &mut Conn) -> QueryResult<i64> {
    #[derive(diesel::QueryableByName)]
    struct Head {
        #[diesel(sql_type = BigInt)]
        last: i64,
    }
    let head = sql_query("SELECT coalesce(max(seq), 0) AS last FROM sqlite_sequence WHERE name = 'events'");
    let head: Head = RunQueryDsl::get_result(head, conn).await?;
    Ok(head.last)
}
