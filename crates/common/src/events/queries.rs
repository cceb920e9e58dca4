//! The SQL of a log that both engines share.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn,
    schema::{event_readers, events},
};
pub(crate) use super::{head, is_any_unplaced, place};
use crate::{events::Event, ids::EventId};

type Row = (i64, EventId, String, String, String, Vec<u8>, DateTime<Utc>);

/// The events after a position, in order, at most `limit`.
pub(crate) async fn after(conn: &mut Conn, position: i64, limit: i64) -> QueryResult<Vec<Event>> {
    let rows: Vec<Row> = events::table
        .filter(events::position.gt(position))
        .order(events::position)
        .limit(limit)
        .select((
            events::position.assume_not_null(),
            events::id,
            events::kind,
            events::subject,
            events::data_type,
            events::data,
            events::created_at,
        ))
        .load(conn)
        .await?;
    let event = |(position, id, kind, subject, data_type, data, time): Row| Event {
        position,
        id,
        kind,
        subject,
        data_type,
        data: data.into(),
        time,
    };
    Ok(rows.into_iter().map(event).collect())
}

/// The position of the oldest event that is kept.
pub(crate) async fn oldest(conn: &mut Conn) -> QueryResult<Option<i64>> {
    events::table.select(diesel::dsl::min(events::position)).first(conn).await
}

/// Forgets events from before a time, up to a position. Answers with how many.
pub(crate) async fn forget(conn: &mut Conn, before: DateTime<Utc>, up_to: i64) -> QueryResult<u64> {
    let old = events::table.filter(events::position.le(up_to)).filter(events::created_at.lt(before));
    Ok(diesel::delete(old).execute(conn).await? as u64)
}

/// Up to where a reader has read a source.
pub(crate) async fn seat(conn: &mut Conn, reader: &str, source: &str) -> QueryResult<Option<i64>> {
    event_readers::table.find((reader, source)).select(event_readers::position).first(conn).await.optional()
}

/// The lowest position that any reader of a source has come to.
pub(crate) async fn hindmost(conn: &mut Conn, source: &str) -> QueryResult<Option<i64>> {
    let readers = event_readers::table.filter(event_readers::source.eq(source));
    readers.select(diesel::dsl::min(event_readers::position)).first(conn).await
}

/// Seats a reader, where it has no seat.
pub(crate) async fn take_seat(conn: &mut Conn, reader: &str, source: &str, position: i64) -> QueryResult<()> {
    let row =
        (event_readers::reader.eq(reader), event_readers::source.eq(source), event_readers::position.eq(position));
    diesel::insert_into(event_readers::table).values(row).on_conflict_do_nothing().execute(conn).await?;
    Ok(())
}

/// Moves a reader from one position to a later one. `false` where it was not at the first: somebody else moved it.
pub(crate) async fn advance(conn: &mut Conn, reader: &str, source: &str, from: i64, to: i64) -> QueryResult<bool> {
    let row = event_readers::table.find((reader, source)).filter(event_readers::position.eq(from));
    Ok(diesel::update(row).set(event_readers::position.eq(to)).execute(conn).await? == 1)
}
