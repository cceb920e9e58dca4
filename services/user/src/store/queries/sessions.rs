//! Sessions and their refresh tokens. Compiled once for each engine.

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, QueryDsl, QueryResult,
    result::OptionalExtension,
};
use diesel_async::RunQueryDsl;
use souk_common::ids::{SessionId, UserId};

use super::{
    super::{
        Conn,
        schema::{refresh_tokens, sessions, users},
    },
    users::COLUMNS,
};
use crate::{
    domain::session::{Chosen, EndReason, Ended, Listed, Session},
    store::rows::{SessionKey, SessionRow, TokenRow, UserRow},
};

/// The columns of a [`SessionRow`].
const SESSION: (
    sessions::id,
    sessions::user_id,
    sessions::create_time,
    sessions::expire_time,
    sessions::scope,
    sessions::last_use_time,
    sessions::user_agent,
    sessions::client_address,
) = (
    sessions::id,
    sessions::user_id,
    sessions::create_time,
    sessions::expire_time,
    sessions::scope,
    sessions::last_use_time,
    sessions::user_agent,
    sessions::client_address,
);

/// Begins a session.
pub async fn insert_session(conn: &mut Conn, begun: &Listed) -> QueryResult<()> {
    let Session { id, scope, create_time, expire_time } = &begun.session;
    let row = (
        sessions::id.eq(*id),
        sessions::scope.eq(scope),
        sessions::user_id.eq(begun.user),
        sessions::create_time.eq(*create_time),
        sessions::expire_time.eq(*expire_time),
        sessions::last_use_time.eq(begun.last_use_time),
        sessions::user_agent.eq(&begun.user_agent),
        sessions::client_address.eq(&begun.client_address),
    );
    diesel::insert_into(sessions::table).values(row).execute(conn).await.map(drop)
}

/// Adds a refresh token to a session.
pub async fn insert_refresh_token(
    conn: &mut Conn,
    hash: &[u8],
    session: SessionId,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let row =
        (refresh_tokens::hash.eq(hash), refresh_tokens::session_id.eq(session), refresh_tokens::create_time.eq(now));
    diesel::insert_into(refresh_tokens::table).values(row).execute(conn).await.map(drop)
}

/// Marks an unused token as used, and returns its session. Of several requests with the same token, only one gets the
/// session. `salt` is the salt of the successor token.
pub async fn use_refresh_token(
    conn: &mut Conn,
    hash: &[u8],
    salt: &[u8],
    now: DateTime<Utc>,
) -> QueryResult<Option<SessionId>> {
    let unused = refresh_tokens::table.find(hash).filter(refresh_tokens::use_time.is_null());
    diesel::update(unused)
        .set((refresh_tokens::use_time.eq(now), refresh_tokens::successor_salt.eq(salt)))
        .returning(refresh_tokens::session_id)
        .get_result(conn)
        .await
        .optional()
}

/// A token's session, the time when it was used, and the salt of its successor.
pub async fn refresh_token(conn: &mut Conn, hash: &[u8]) -> QueryResult<Option<TokenRow>> {
    let columns = (refresh_tokens::session_id, refresh_tokens::use_time, refresh_tokens::successor_salt);
    refresh_tokens::table.find(hash).select(columns).first(conn).await.optional()
}

/// Deletes the salts of tokens that were used before this time. Returns the number of these tokens.
pub async fn forget_salts(conn: &mut Conn, before: DateTime<Utc>) -> QueryResult<usize> {
    let salted = refresh_tokens::table.filter(refresh_tokens::successor_salt.is_not_null());
    diesel::update(salted.filter(refresh_tokens::use_time.lt(before)))
        .set(refresh_tokens::successor_salt.eq(None::<Vec<u8>>))
        .execute(conn)
        .await
}

/// Records that an open session was used now, and from where, if that is known. Returns false if it was ended meanwhile.
pub async fn use_session(
    conn: &mut Conn,
    session: &Session,
    client_address: Option<&str>,
    now: DateTime<Utc>,
) -> QueryResult<bool> {
    let open = sessions::table.find(session.id).filter(sessions::end_time.is_null());
    let used = (
        sessions::expire_time.eq(session.expire_time),
        sessions::last_use_time.eq(now),
        client_address.map(|address| sessions::client_address.eq(address)),
    );
    Ok(diesel::update(open).set(used).execute(conn).await? == 1)
}

/// A session; `None` if it has ended or expired.
pub async fn open_session(conn: &mut Conn, id: SessionId, now: DateTime<Utc>) -> QueryResult<Option<SessionRow>> {
    let open = sessions::table.find(id).filter(sessions::end_time.is_null()).filter(sessions::expire_time.gt(now));
    open.select(SESSION).first(conn).await.optional()
}

/// The open sessions of an account, newest first, after the last session of the previous page.
pub async fn list_sessions(
    conn: &mut Conn,
    user: UserId,
    after: Option<SessionKey>,
    now: DateTime<Utc>,
    limit: i64,
) -> QueryResult<Vec<SessionRow>> {
    let open = sessions::table.filter(sessions::user_id.eq(user)).filter(sessions::end_time.is_null());
    let mut query = open.filter(sessions::expire_time.gt(now)).select(SESSION).into_boxed();
    if let Some((time, id)) = after {
        // The first condition finds the place in the index, the second one the place among equal times.
        query =
            query.filter(sessions::create_time.le(time)).filter(sessions::create_time.lt(time).or(sessions::id.lt(id)));
    }
    query.order((sessions::create_time.desc(), sessions::id.desc())).limit(limit).load(conn).await
}

/// True if this account has or had a session with this id.
pub async fn has_session(conn: &mut Conn, user: UserId, id: SessionId) -> QueryResult<bool> {
    let session = sessions::table.find(id).filter(sessions::user_id.eq(user));
    diesel::select(diesel::dsl::exists(session)).get_result(conn).await
}

/// Ends the open sessions of an account that a user chose from its list: all of them, one of them, or all but one.
/// Returns their number.
pub async fn end_listed(
    conn: &mut Conn,
    user: UserId,
    chosen: Chosen,
    by: UserId,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    let open = sessions::user_id.eq(user).and(sessions::end_time.is_null()).and(sessions::expire_time.gt(now));
    let end =
        (sessions::end_time.eq(now), sessions::end_reason.eq(EndReason::LogOut.as_str()), sessions::ended_by.eq(by));
    let update = diesel::update(sessions::table.filter(open)).set(end);
    match chosen {
        Chosen::All => update.execute(conn).await,
        Chosen::Only(id) => update.filter(sessions::id.eq(id)).execute(conn).await,
        Chosen::AllBut(id) => update.filter(sessions::id.ne(id)).execute(conn).await,
    }
}

/// The account of a session of this user; `None` if the session was ended.
pub async fn user_of_session(conn: &mut Conn, id: SessionId, user: UserId) -> QueryResult<Option<UserRow>> {
    let open = sessions::table.find(id).filter(sessions::user_id.eq(user)).filter(sessions::end_time.is_null());
    open.inner_join(users::table).select(COLUMNS).first(conn).await.optional()
}

/// Ended sessions after this one, in their order.
pub async fn ended_sessions(conn: &mut Conn, after: Ended, limit: i64) -> QueryResult<Vec<Ended>> {
    let Ended { time, session } = after;
    let rows: Vec<(DateTime<Utc>, SessionId)> = sessions::table
        // The first condition finds the place in the index, the second one the place among equal times.
        .filter(sessions::end_time.ge(time))
        .filter(sessions::end_time.gt(time).or(sessions::id.nullable().gt(session)))
        .order((sessions::end_time.asc(), sessions::id.asc()))
        .limit(limit)
        .select((sessions::end_time.assume_not_null(), sessions::id))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(time, session)| Ended { time, session }).collect())
}

/// True if a session was ended before it expired.
pub async fn session_ended(conn: &mut Conn, id: SessionId) -> QueryResult<bool> {
    let end: Option<Option<DateTime<Utc>>> =
        sessions::table.find(id).select(sessions::end_time).first(conn).await.optional()?;
    Ok(end.is_none_or(|end| end.is_some()))
}

/// Ends a session. Returns true if it had not ended before.
pub async fn end_session(conn: &mut Conn, id: SessionId, reason: EndReason, now: DateTime<Utc>) -> QueryResult<bool> {
    let open = sessions::table.find(id).filter(sessions::end_time.is_null());
    let end = (sessions::end_time.eq(now), sessions::end_reason.eq(reason.as_str()));
    Ok(diesel::update(open).set(end).execute(conn).await? == 1)
}

/// Ends every session of an account. Returns the number of sessions that had not ended before.
pub async fn end_sessions_of(
    conn: &mut Conn,
    user: UserId,
    reason: EndReason,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    let open = sessions::table.filter(sessions::user_id.eq(user)).filter(sessions::end_time.is_null());
    let end = (sessions::end_time.eq(now), sessions::end_reason.eq(reason.as_str()));
    diesel::update(open).set(end).execute(conn).await
}

/// Deletes at most `limit` sessions that ended or expired before this time, with their tokens. Returns their number.
pub async fn delete_sessions(conn: &mut Conn, before: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let over = sessions::expire_time.nullable().lt(before).or(sessions::end_time.lt(before));
    let some: Vec<SessionId> = sessions::table.filter(over).select(sessions::id).limit(limit).load(conn).await?;
    diesel::delete(sessions::table.filter(sessions::id.eq_any(some))).execute(conn).await
}

/// Deletes at most `limit` tokens that were used before this time, of sessions that continue. Returns their number.
pub async fn delete_used_tokens(conn: &mut Conn, before: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = refresh_tokens::table.filter(refresh_tokens::use_time.lt(before));
    let some: Vec<Vec<u8>> = old.select(refresh_tokens::hash).limit(limit).load(conn).await?;
    diesel::delete(refresh_tokens::table.filter(refresh_tokens::hash.eq_any(some))).execute(conn).await
}
