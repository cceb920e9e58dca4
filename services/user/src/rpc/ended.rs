//! ListEndedSessions, and the check of this service's own callers against ended sessions.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    auth::{Identity, Recheck},
    error::Problem,
    ids::SessionId,
};
use souk_proto::user::v1::{
    ListEndedSessionsRequest, ListEndedSessionsResponse, list_ended_sessions_response::EndedSession,
};
use souk_store::db::Db;
use uuid::Uuid;

use super::convert;
use crate::{
    domain::{now, token::LEEWAY},
    error::Error,
    store,
    tokens::Issuer,
};

/// Sessions listed at a time.
const PAGE: i64 = 1000;
/// The overlap of two reads: the end of a session has the time at which its transaction began, by the clock of its
/// replica, and a reader may have seen later ones before it was committed.
const AGAIN: TimeDelta = TimeDelta::minutes(2);

/// A place in the order of the sessions that have ended.
type Place = (DateTime<Utc>, SessionId);

pub(super) async fn list(
    db: &Db,
    issuer: &Issuer,
    request: &ListEndedSessionsRequest,
) -> Result<ListEndedSessionsResponse, Problem> {
    let (begin, no_session) = (now(), SessionId::from_uuid(Uuid::nil()));
    let life = issuer.ttl() + LEEWAY;
    let oldest = (begin - life, no_session);
    let after = match request.cursor.as_str() {
        "" => oldest,
        cursor => read(cursor).ok_or_else(|| Problem::invalid("cursor", "must be one that was answered"))?.max(oldest),
    };
    let size = match i64::from(request.page_size) {
        1..PAGE => i64::from(request.page_size),
        _ => PAGE,
    };
    let ended = store::sessions::ended(db, after, size).await?;
    let more = ended.len() as i64 == size;
    let next = match ended.last() {
        Some(&(session, end_time)) if more => (end_time, session),
        // All up to now was told.
        _ => (begin - AGAIN, no_session),
    };
    let told = |(session, end_time): (SessionId, DateTime<Utc>)| EndedSession {
        session_id: session.to_string(),
        token_expire_time: Some(convert::timestamp(end_time + life)),
    };
    Ok(ListEndedSessionsResponse { sessions: ended.into_iter().map(told).collect(), cursor: write(next), more })
}

fn write((time, session): Place) -> String {
    format!("{}.{session}", time.timestamp_micros())
}

fn read(cursor: &str) -> Option<Place> {
    let (time, session) = cursor.split_once('.')?;
    Some((DateTime::from_timestamp_micros(time.parse().ok()?)?, SessionId::from_str(session).ok()?))
}

/// Looks callers up in the database: this service need not poll for what it wrote itself.
pub struct Accounts(pub Db);

#[tonic::async_trait]
impl Recheck for Accounts {
    async fn now(&self, identity: Identity) -> Result<Identity, Problem> {
        let Identity::User { id, roles, session, scopes } = identity else { return Ok(identity) };
        let user = store::sessions::holder(&self.0, session, id).await?.ok_or(Error::SessionEnded)?;
        // Never more than the token says.
        let roles = roles.iter().filter(|role| user.roles.has(*role)).collect();
        Ok(Identity::User { id, roles, session, scopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let place = (now(), SessionId::new());
        assert_eq!(read(&write(place)), Some(place));
        for text in ["x", "1", "1.", ".ses_00000000000000000000000000", "9999999999999999999.x", "1.ses_x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
