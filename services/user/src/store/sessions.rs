//! Operations on sessions and their refresh tokens.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::ids::{SessionId, UserId};
use souk_store::db::{read, write};

use super::{Store, postgres, rows::TokenRow, sqlite};
use crate::{
    domain::{
        password::Hash,
        session::{EndReason, Ended, Refused, Session, judge_reuse},
        token::{RefreshToken, Salt},
        user::{State, User},
    },
    error::Error,
};

/// A session to begin.
pub struct Opening {
    /// The scopes that the session's tokens are limited to. `None`: no limit.
    pub scope: Option<String>,
    /// The first refresh token.
    pub token: RefreshToken,
    /// When the session begins.
    pub now: DateTime<Utc>,
    /// Duration after which an unused session expires.
    pub ttl: TimeDelta,
}

/// The parameters of an exchange of a refresh token.
#[derive(Debug)]
pub struct Exchange {
    /// The salt of the successor, if the token was not exchanged before.
    pub salt: Salt,
    /// The time of the exchange.
    pub now: DateTime<Utc>,
    /// Duration after which the session expires if it is not used again.
    pub ttl: TimeDelta,
    /// The grace period: how long a used token may be sent again.
    pub grace: TimeDelta,
}

/// A session that began or continues, with the data for its client.
#[derive(Debug)]
pub struct Opened {
    /// The user of the session.
    pub user: User,
    /// The session.
    pub session: Session,
    /// The next refresh token.
    pub token: RefreshToken,
}

impl Store {
    /// Begins a session for an account whose password was checked against the hash `checked`. Stores `hash` for the
    /// next check: the same hash, or one of another cost.
    ///
    /// # Errors
    /// [`Error::Credentials`] if the password was replaced or the account was disabled meanwhile. Also if the database
    /// fails.
    pub async fn begin_session(
        &self,
        user: &User,
        checked: &Hash,
        hash: &Hash,
        opening: Opening,
    ) -> Result<Opened, Error> {
        let Opening { scope, token, now, ttl } = opening;
        let (id, session) = (user.id, Session { id: SessionId::new(), scope });
        write!(self.db, |conn, q| -> Result<Opened, Error> {
            let user: User = q::lock_user(conn, id).await?.ok_or(Error::Credentials)?.into();
            if user.state != State::Active
                || !q::replace_password_hash(conn, id, checked.as_str(), hash.as_str()).await?
            {
                return Err(Error::Credentials);
            }
            q::insert_session(conn, &session, id, now, now + ttl).await?;
            q::insert_refresh_token(conn, &token.hash(), session.id, now).await?;
            Ok(Opened { user, session: session.clone(), token: token.clone() })
        })
    }

    /// Exchanges a refresh token for the next one. If several requests use the same token, all of them get the same
    /// next token. They may run at once, or a client may repeat a request after a lost response. This applies only
    /// within `grace`, and only until the next token is used. A token that is sent again later ends its session.
    ///
    /// # Errors
    /// [`Error::Refresh`] if the token is refused. Also if the database fails.
    pub async fn refresh_session(&self, token: &RefreshToken, exchange: &Exchange) -> Result<Opened, Error> {
        let Exchange { salt, now, ttl, grace } = exchange;
        let (hash, now) = (token.hash(), *now);
        // A refusal may end the session. That must be committed, so the refusal is not an error in the transaction.
        let outcome = write!(self.db, |conn, q| -> Result<Result<Opened, Refused>, Error> {
            let is_first = q::use_refresh_token(conn, &hash, salt.as_bytes(), now).await?;
            let (session, next) = match is_first {
                Some(session) => (session, token.successor(salt)),
                None => {
                    let Some(TokenRow { session, use_time: Some(use_time), successor_salt }) =
                        q::refresh_token(conn, &hash).await?
                    else {
                        return Ok(Err(Refused::Unknown));
                    };
                    if q::session_ended(conn, session).await? {
                        return Ok(Err(Refused::Unknown));
                    }
                    if judge_reuse(use_time, now, *grace) == Refused::Reused {
                        q::end_session(conn, session, EndReason::TokenReused, now).await?;
                        return Ok(Err(Refused::Reused));
                    }
                    let Some(salt) = successor_salt else { return Ok(Err(Refused::JustUsed)) };
                    let next = token.successor(&Salt::stored(salt));
                    match q::refresh_token(conn, &next.hash()).await? {
                        Some(TokenRow { use_time: None, .. }) => (session, next),
                        // The next token was used, so the response was not lost. This request is late, or comes from
                        // another client.
                        _ => return Ok(Err(Refused::JustUsed)),
                    }
                }
            };
            let open = match is_first {
                Some(_) => q::extend_session(conn, session, now, now + *ttl).await?,
                None => q::open_session(conn, session, now).await?,
            };
            let Some((user, scope)) = open else {
                let ended = q::session_ended(conn, session).await?;
                return Ok(Err(if ended { Refused::Unknown } else { Refused::Expired }));
            };
            let user: Option<User> = q::user(conn, user).await?.map(User::from);
            let Some(user) = user.filter(|user| user.state == State::Active) else {
                return Ok(Err(Refused::Unknown));
            };
            if is_first.is_some() {
                q::insert_refresh_token(conn, &next.hash(), session, now).await?;
            }
            Ok(Ok(Opened { user, session: Session { id: session, scope }, token: next }))
        })?;
        outcome.map_err(Error::Refresh)
    }

    /// The current account of a session. `None` if the session does not belong to this user, has ended, or its account
    /// is disabled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn session_holder(&self, session: SessionId, user: UserId) -> Result<Option<User>, Error> {
        let row = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::user_of_session(conn, session, user).await?) })?;
        Ok(row.map(User::from).filter(|user| user.state == State::Active))
    }

    /// At most `limit` ended sessions after this one, in their order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ended_sessions(&self, after: Ended, limit: i64) -> Result<Vec<Ended>, Error> {
        read!(self.db, |conn, q| -> Result<Vec<Ended>, Error> { Ok(q::ended_sessions(conn, after, limit).await?) })
    }

    /// Ends the session of a refresh token, used or not. An unknown token is not an error.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_session(&self, token: &RefreshToken, now: DateTime<Utc>) -> Result<(), Error> {
        let token = token.hash();
        write!(self.db, |conn, q| -> Result<(), Error> {
            if let Some(row) = q::refresh_token(conn, &token).await? {
                q::end_session(conn, row.session, EndReason::LogOut, now).await?;
            }
            Ok(())
        })
    }

    /// Deletes the successor salts of tokens that were used before this time. After that, clients can no longer request
    /// these successors.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_salts(&self, before: DateTime<Utc>) -> Result<(), Error> {
        write!(self.db, |conn, q| -> Result<(), Error> { Ok(q::forget_salts(conn, before).await.map(drop)?) })
    }

    /// Deletes sessions that ended or expired before `before`, and tokens that were used before `tokens_before`.
    /// Returns their number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn clean_sessions(&self, before: DateTime<Utc>, tokens_before: DateTime<Utc>) -> Result<u64, Error> {
        // In small transactions, so that others do not wait long for SQLite's only writer.
        const BATCH: i64 = 500;
        let mut deleted = 0;
        loop {
            let rows = write!(self.db, |conn, q| -> Result<usize, Error> {
                let sessions = q::delete_sessions(conn, before, BATCH).await?;
                Ok(sessions + q::delete_used_tokens(conn, tokens_before, BATCH).await?)
            })?;
            deleted += rows as u64;
            if rows == 0 {
                return Ok(deleted);
            }
        }
    }
}
