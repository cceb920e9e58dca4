//! The log in SQLite. Only one transaction writes at a time, so the row's number is the position.

use diesel::{ExpressionMethods, QueryResult, RunQueryDsl as Blocking, sql_query, sql_types::BigInt};
use diesel_async::RunQueryDsl;

use super::{Checkpoint, Draft, Events};
use crate::db::Keep as _;

pub(crate) type Conn = crate::db::sqlite::Conn;
/// The type of an id in SQL text.
pub(crate) type Id = diesel::sql_types::Binary;

pub(crate) mod schema {
    super::super::log::tables!(Binary, TimestamptzSqlite);
}

#[path = "queries.rs"]
pub(crate) mod queries;

/// Appends events to the log, in the transaction of the change that they record.
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

/// [`append`] for code that already runs on a blocking thread.
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

/// Moves a checkpoint to the last of these events, in the transaction that processes them. Returns `false` if the
/// checkpoint has moved: then another replica has processed the events, and the transaction must do nothing.
///
/// # Errors
/// If the database fails.
pub async fn advance(conn: &mut Conn, checkpoint: Checkpoint, events: &Events) -> QueryResult<bool> {
    let Some(last) = events.last() else { return Ok(false) };
    queries::advance(conn, checkpoint, last.position).await
}

/// True if events wait for a position. In SQLite they have it from the start.
pub(crate) async fn is_any_unplaced(_: &mut Conn) -> QueryResult<bool> {
    Ok(false)
}

/// Gives events their positions. In SQLite they have them from the start.
pub(crate) async fn place(conn: &mut Conn, _: i64) -> QueryResult<(i64, i64)> {
    Ok((head(conn).await?, 0))
}

/// The last assigned position, even if its event is no longer stored.
pub(crate) async fn head(conn: &mut Conn) -> QueryResult<i64> {
    #[derive(diesel::QueryableByName)]
    struct Head {
        #[diesel(sql_type = BigInt)]
        last: i64,
    }
    let head = sql_query("SELECT coalesce(max(seq), 0) AS last FROM sqlite_sequence WHERE name = 'events'");
    let head: Head = RunQueryDsl::get_result(head.kept(), conn).await?;
    Ok(head.last)
}
