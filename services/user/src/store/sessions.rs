//! Sessions and their refresh tokens.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    db::{Db, write},
    ids::SessionId,
};

use super::{postgres, sqlite};
use crate::{
    domain::{
        password::Hash,
        session::{EndReason, Refused, Session, judge_reuse},
        token::RefreshToken,
        user::{State, User},
    },
    error::Error,
};

/// A session that is about to begin.
pub struct Opening<'a> {
    /// What its tokens shall be limited to; `None`: to nothing.
    pub scope: Option<String>,
    /// Its first refresh token.
    pub token: &'a RefreshToken,
    /// When it begins.
    pub now: DateTime<Utc>,
    /// How long it lives where it is not used.
    pub ttl: TimeDelta,
}

/// Begins a session for an account whose password was checked against `checked`, and keeps `hash` for the next time
/// (the same one, or one of another cost).
///
/// # Errors
/// [`Error::Credentials`] where the password was replaced or the account disabled meanwhile; faults of the database.
pub async fn begin(
    db: &Db,
    user: &User,
    checked: &Hash,
    hash: &Hash,
    opening: Opening<'_>,
) -> Result<(User, Session), Error> {
    let Opening { scope, token, now, ttl } = opening;
    let (id, session, token) = (user.id, Session { id: SessionId::new(), scope }, token.hash());
    write!(db, |conn, q| -> Result<(User, Session), Error> {
        let user: User = q::lock_user(conn, id).await?.ok_or(Error::Credentials)?.into();
        if user.state != State::Active || !q::replace_password_hash(conn, id, checked.as_str(), hash.as_str()).await? {
            return Err(Error::Credentials);
        }
        q::insert_session(conn, &session, id, now, now + ttl).await?;
        q::insert_refresh_token(conn, &token, session.id, now).await?;
        Ok((user, session.clone()))
    })
}

/// Exchanges a refresh token for the next one. Of any number of requests with one token, one gets the exchange. A
/// token that was used longer than `grace` ago ends its session.
///
/// # Errors
/// [`Error::Refresh`]; faults of the database.
pub async fn refresh(
    db: &Db,
    token: &RefreshToken,
    next: &RefreshToken,
    now: DateTime<Utc>,
    ttl: TimeDelta,
    grace: TimeDelta,
) -> Result<(User, Session), Error> {
    let (token, next) = (token.hash(), next.hash());
    // A refusal may have ended the session, which must be committed, so it is no error in here.
    let outcome = write!(db, |conn, q| -> Result<Result<(User, Session), Refused>, Error> {
        let Some(session) = q::use_refresh_token(conn, &token, now).await? else {
            return match q::refresh_token(conn, &token).await? {
                Some((session, Some(use_time))) if !q::session_ended(conn, session).await? => {
                    let refused = judge_reuse(use_time, now, grace);
                    if refused == Refused::Reused {
                        q::end_session(conn, session, EndReason::TokenReused, now).await?;
                    }
                    Ok(Err(refused))
                }
                _ => Ok(Err(Refused::Unknown)),
            };
        };
        let Some((user, scope)) = q::extend_session(conn, session, now, now + ttl).await? else {
            let ended = q::session_ended(conn, session).await?;
            return Ok(Err(if ended { Refused::Unknown } else { Refused::Expired }));
        };
        let user: Option<User> = q::user(conn, user).await?.map(User::from);
        let Some(user) = user.filter(|user| user.state == State::Active) else {
            return Ok(Err(Refused::Unknown));
        };
        q::insert_refresh_token(conn, &next, session, now).await?;
        Ok(Ok((user, Session { id: session, scope })))
    })?;
    outcome.map_err(Error::Refresh)
}

/// Ends the session that a refresh token belongs to, used or not. A token that is unknown is no error.
///
/// # Errors
/// Faults of the database.
pub async fn end(db: &Db, token: &RefreshToken, now: DateTime<Utc>) -> Result<(), Error> {
    let token = token.hash();
    write!(db, |conn, q| -> Result<(), Error> {
        if let Some((session, _)) = q::refresh_token(conn, &token).await? {
            q::end_session(conn, session, EndReason::LogOut, now).await?;
        }
        Ok(())
    })
}

/// Deletes sessions that were over before then, and tokens that were used before `tokens_before`; how many.
///
/// # Errors
/// Faults of the database.
pub async fn clean(db: &Db, before: DateTime<Utc>, tokens_before: DateTime<Utc>) -> Result<u64, Error> {
    // In small transactions, so that nobody waits long for the one writer of SQLite.
    const BATCH: i64 = 500;
    let mut deleted = 0;
    loop {
        let rows = write!(db, |conn, q| -> Result<usize, Error> {
            let sessions = q::delete_sessions(conn, before, BATCH).await?;
            Ok(sessions + q::delete_used_tokens(conn, tokens_before, BATCH).await?)
        })?;
        deleted += rows as u64;
        if rows == 0 {
            return Ok(deleted);
        }
    }
}
