//! The SQL of a log that both engines share.

use chrono::{DateTime, Utc};
use diesel::{prelude::*, sql_query, sql_types::BigInt};
use diesel_async::RunQueryDsl;
use souk_common::ids::{EventId, UserId};

use super::{
    Conn, Id,
    schema::{event_dead_letters as letters, event_epoch, event_readers, events},
};
pub(crate) use super::{head, is_any_unplaced, place};
use crate::db::Keep as _;
use crate::events::{AFTER_OF, Checkpoint, DeadLetter, Event, letters::Which};

#[derive(Queryable, QueryableByName)]
#[diesel(table_name = events)]
struct Row {
    #[diesel(sql_type = BigInt)]
    position: i64,
    id: EventId,
    kind: String,
    subject: String,
    owner_id: Option<UserId>,
    data_type: String,
    data: Vec<u8>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        let Row { position, id, kind, subject, owner_id: owner, data_type, data, created_at: time } = row;
        Self { position, id, kind, subject, owner, data_type, data: data.into(), time }
    }
}

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
            events::owner_id,
            events::data_type,
            events::data,
            events::created_at,
        ))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// An owner's events after a position, in order, at most `limit`.
pub(crate) async fn after_of(conn: &mut Conn, owner: UserId, position: i64, limit: i64) -> QueryResult<Vec<Event>> {
    let rows: Vec<Row> = sql_query(AFTER_OF)
        .bind::<Id, _>(owner)
        .bind::<BigInt, _>(position)
        .bind::<BigInt, _>(limit)
        .kept()
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// The id of the event at a position, if the event is still stored.
pub(crate) async fn id_at(conn: &mut Conn, position: i64) -> QueryResult<Option<EventId>> {
    events::table.filter(events::position.eq(position)).select(events::id).first(conn).await.optional()
}

/// The log's epoch: random bytes that were chosen when its tables were created.
pub(crate) async fn epoch(conn: &mut Conn) -> QueryResult<Vec<u8>> {
    event_epoch::table.select(event_epoch::epoch).first(conn).await
}

/// The position of the oldest stored event.
pub(crate) async fn oldest(conn: &mut Conn) -> QueryResult<Option<i64>> {
    events::table.select(diesel::dsl::min(events::position)).first(conn).await
}

/// The number of events that are deleted in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// Deletes some of the oldest events that are older than `before`, up to a position. Returns how many, and whether there
/// may be more. It looks only at as many events as it deletes at once, so that a run does not read the whole log.
pub(crate) async fn forget(conn: &mut Conn, before: DateTime<Utc>, up_to: i64) -> QueryResult<(u64, bool)> {
    let placed = events::table.filter(events::position.le(up_to));
    let last = placed.order(events::position).offset(FORGOTTEN_AT_ONCE - 1).limit(1);
    let last: Option<i64> = last.select(events::position.assume_not_null()).first(conn).await.optional()?;
    let old = placed.filter(events::position.le(last.unwrap_or(up_to))).filter(events::created_at.lt(before));
    let deleted = diesel::delete(old).execute(conn).await?;
    Ok((deleted as u64, deleted as u64 == FORGOTTEN_AT_ONCE.unsigned_abs()))
}

/// A reader's checkpoint in a source: the position up to which it has read.
pub(crate) async fn checkpoint(conn: &mut Conn, reader: &str, source: &str) -> QueryResult<Option<i64>> {
    event_readers::table.find((reader, source)).select(event_readers::position).first(conn).await.optional()
}

/// The lowest checkpoint of all readers of a source.
pub(crate) async fn hindmost(conn: &mut Conn, source: &str) -> QueryResult<Option<i64>> {
    let readers = event_readers::table.filter(event_readers::source.eq(source));
    readers.select(diesel::dsl::min(event_readers::position)).first(conn).await
}

/// Creates a reader's checkpoint, if it has none.
pub(crate) async fn take_seat(conn: &mut Conn, reader: &str, source: &str, position: i64) -> QueryResult<()> {
    let row =
        (event_readers::reader.eq(reader), event_readers::source.eq(source), event_readers::position.eq(position));
    diesel::insert_into(event_readers::table).values(row).on_conflict_do_nothing().execute(conn).await?;
    Ok(())
}

/// Moves a reader's checkpoint to a later position, or removes a dead letter. Returns `false` if the checkpoint or
/// letter is no longer there: another replica was faster.
pub(crate) async fn advance(conn: &mut Conn, checkpoint: Checkpoint, to: i64) -> QueryResult<bool> {
    if checkpoint.is_letter {
        // The lock makes a transaction that sets aside later events of the subject wait for this one, or this one for
        // it.
        hold(conn, checkpoint.reader, checkpoint.source).await?;
        return remove(conn, checkpoint.reader, checkpoint.source, to).await;
    }
    let row = event_readers::table
        .find((checkpoint.reader, checkpoint.source))
        .filter(event_readers::position.eq(checkpoint.position));
    Ok(diesel::update(row).set(event_readers::position.eq(to)).kept().execute(conn).await? == 1)
}

/// Locks a reader's checkpoint until the transaction ends, and returns its position.
pub(crate) async fn hold(conn: &mut Conn, reader: &str, source: &str) -> QueryResult<Option<i64>> {
    let row = diesel::update(event_readers::table.find((reader, source)));
    let held = row.set(event_readers::position.eq(event_readers::position)).returning(event_readers::position);
    held.get_result(conn).await.optional()
}

/// True if a reader has any dead letters.
pub(crate) async fn has_letters(conn: &mut Conn, reader: &str, source: &str) -> QueryResult<bool> {
    let own = letters::table.filter(letters::reader.eq(reader)).filter(letters::source.eq(source));
    diesel::select(diesel::dsl::exists(own)).get_result(conn).await
}

/// Returns those of these subjects that have dead letters of this reader, and whether the letters are requeued.
pub(crate) async fn lying(
    conn: &mut Conn,
    reader: &str,
    source: &str,
    subjects: &[&str],
) -> QueryResult<Vec<(String, Option<DateTime<Utc>>)>> {
    let own = letters::table.filter(letters::reader.eq(reader)).filter(letters::source.eq(source));
    let found = own.filter(letters::subject.eq_any(subjects)).select((letters::subject, letters::requeued_at));
    found.load(conn).await
}

/// Stores a dead letter.
pub(crate) async fn set_aside(conn: &mut Conn, letter: &DeadLetter) -> QueryResult<()> {
    let event = &letter.event;
    let row = (
        letters::reader.eq(&letter.reader),
        letters::source.eq(&letter.source),
        letters::position.eq(event.position),
        letters::id.eq(event.id),
        letters::kind.eq(&event.kind),
        letters::subject.eq(&event.subject),
        letters::data_type.eq(&event.data_type),
        letters::data.eq(&*event.data),
        letters::created_at.eq(event.time),
        letters::tries.eq(letter.tries),
        letters::last_error.eq(&letter.last_error),
        letters::first_tried_at.eq(letter.first_tried),
        letters::last_tried_at.eq(letter.last_tried),
        letters::set_aside_at.eq(letter.set_aside),
        letters::requeued_at.eq(letter.requeued),
    );
    diesel::insert_into(letters::table).values(row).execute(conn).await?;
    Ok(())
}

/// Dead letters, sorted by reader and position.
pub(crate) async fn dead_letters(conn: &mut Conn, source: &str, which: &Which<'_>) -> QueryResult<Vec<DeadLetter>> {
    type Place = (String, String, i64, EventId, String, String, String, Vec<u8>, DateTime<Utc>);
    type Tried = (i32, Option<String>, Option<DateTime<Utc>>, Option<DateTime<Utc>>);
    type Set = (DateTime<Utc>, Option<DateTime<Utc>>);
    let own =
        letters::table.filter(letters::source.eq(source)).order((letters::reader, letters::source, letters::position));
    let own = own.into_boxed();
    let some = match which {
        Which::After(None, limit) => own.limit(*limit),
        Which::After(Some((reader, position)), limit) => {
            // The first condition finds the place in the index, the second one the place among the reader's letters.
            let further = letters::reader.gt(reader).or(letters::position.gt(position));
            own.filter(letters::reader.ge(reader)).filter(further).limit(*limit)
        }
        Which::One(reader, position) => {
            own.filter(letters::reader.eq(*reader)).filter(letters::position.eq(position)).limit(1)
        }
        // All letters of a subject are requeued at the same time, so its events stay in order.
        Which::Requeued(reader) => own
            .filter(letters::reader.eq(*reader))
            .filter(letters::requeued_at.is_not_null())
            .order((letters::requeued_at, letters::position))
            .limit(1),
    };
    let columns = (
        (
            letters::reader,
            letters::source,
            letters::position,
            letters::id,
            letters::kind,
            letters::subject,
            letters::data_type,
            letters::data,
            letters::created_at,
        ),
        (letters::tries, letters::last_error, letters::first_tried_at, letters::last_tried_at),
        (letters::set_aside_at, letters::requeued_at),
    );
    let rows: Vec<(Place, Tried, Set)> = some.select(columns).load(conn).await?;
    let letter = |(place, tried, (set_aside, requeued)): (Place, Tried, Set)| {
        let (reader, source, position, id, kind, subject, data_type, data, time) = place;
        let (tries, last_error, first_tried, last_tried) = tried;
        // Nobody watches dead letters, so the owner is not stored.
        let event = Event { position, id, kind, subject, owner: None, data_type, data: data.into(), time };
        DeadLetter { reader, source, event, tries, last_error, first_tried, last_tried, set_aside, requeued }
    };
    Ok(rows.into_iter().map(letter).collect())
}

/// Requeues all of a reader's dead letters of a subject, or cancels that.
pub(crate) async fn requeue(
    conn: &mut Conn,
    (reader, source, subject): (&str, &str, &str),
    at: Option<DateTime<Utc>>,
) -> QueryResult<()> {
    let own = letters::table.filter(letters::reader.eq(reader)).filter(letters::source.eq(source));
    let of_subject = diesel::update(own.filter(letters::subject.eq(subject)));
    of_subject.set(letters::requeued_at.eq(at)).execute(conn).await?;
    Ok(())
}

/// Records another try of a dead letter, and why it failed.
pub(crate) async fn tried_again(conn: &mut Conn, letter: &DeadLetter, why: &str, at: DateTime<Utc>) -> QueryResult<()> {
    let row = diesel::update(letters::table.find((&letter.reader, &letter.source, letter.event.position)));
    let tried = (
        letters::tries.eq(letters::tries + 1),
        letters::last_error.eq(why),
        letters::first_tried_at.eq(letter.first_tried.unwrap_or(at)),
        letters::last_tried_at.eq(at),
    );
    row.set(tried).execute(conn).await?;
    Ok(())
}

/// Deletes a dead letter. Returns `false` if there is none.
pub(crate) async fn remove(conn: &mut Conn, reader: &str, source: &str, position: i64) -> QueryResult<bool> {
    let row = diesel::delete(letters::table.find((reader, source, position)));
    Ok(row.execute(conn).await? == 1)
}
