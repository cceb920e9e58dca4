//! Operations on sessions and their refresh tokens.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    client_details::ClientDetails,
    ids::{SessionId, UserId},
};
use souk_store::db::{read, write};

use super::{
    Store, postgres,
    rows::{SessionKey, TokenRow},
    sqlite,
    users::Actor,
};
use crate::{
    domain::{
        password::Hash,
        session::{Chosen, EndReason, Ended, Lifetime, Listed, Refused, Session, judge_reuse},
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
    /// How long the session lives.
    pub lifetime: Lifetime,
    /// The client that logs in.
    pub client: ClientDetails,
}

/// The parameters of an exchange of a refresh token.
#[derive(Debug)]
pub struct Exchange {
    /// The salt of the successor, if the token was not exchanged before.
    pub salt: Salt,
    /// The time of the exchange.
    pub now: DateTime<Utc>,
    /// How long the session lives.
    pub lifetime: Lifetime,
    /// The grace period: how long a used token may be sent again.
    pub grace: TimeDelta,
    /// The address of the client; `None` if it is not known.
    pub client_address: Option<IpAddr>,
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
        let Opening { scope, token, now, lifetime, client } = opening;
        let expire_time = lifetime.expire_time(now, now);
        let begun = Listed {
            session: Session { id: SessionId::new(), scope, create_time: now, expire_time },
            user: user.id,
            last_use_time: now,
            user_agent: client.user_agent,
            client_address: client.address.map(|address| address.to_string()),
        };
        let id = user.id;
        write!(self.db, |conn, q| -> Result<Opened, Error> {
            let user: User = q::lock_user(conn, id).await?.ok_or(Error::Credentials)?.into();
            if user.state != State::Active
                || !q::replace_password_hash(conn, id, checked.as_str(), hash.as_str()).await?
            {
                return Err(Error::Credentials);
            }
            q::insert_session(conn, &begun).await?;
            q::insert_refresh_token(conn, &token.hash(), begun.session.id, now).await?;
            Ok(Opened { user, session: begun.session.clone(), token: token.clone() })
        })
    }

    /// Exchanges a refresh token for the next one. If several requests use the same token, all of them get the same
    /// next token. They may run at once, or a client may repeat a request after a lost response. This applies only
    /// within `grace`, and only until the next token is used. A token that is sent again later ends its session.
    ///
    /// # Errors
    /// [`Error::Refresh`] if the token is refused. Also if the database fails.
    pub async fn refresh_session(&self, token: &RefreshToken, exchange: &Exchange) -> Result<Opened, Error> {
        let Exchange { salt, now, lifetime, grace, client_address } = exchange;
        let (hash, now) = (token.hash(), *now);
        let client_address = client_address.map(|address| address.to_string());
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
            let Some(row) = q::open_session(conn, session, now).await? else {
                let ended = q::session_ended(conn, session).await?;
                return Ok(Err(if ended { Refused::Unknown } else { Refused::Expired }));
            };
            let Listed { session, user, .. } = row.into();
            let session = Session { expire_time: lifetime.expire_time(session.create_time, now), ..session };
            // The setting may be shorter than it was at the log-in.
            if session.expire_time <= now {
                return Ok(Err(Refused::Expired));
            }
            if is_first.is_some() && !q::use_session(conn, &session, client_address.as_deref(), now).await? {
                return Ok(Err(Refused::Unknown));
            }
            let user: Option<User> = q::user(conn, user).await?.map(User::from);
            let Some(user) = user.filter(|user| user.state == State::Active) else {
                return Ok(Err(Refused::Unknown));
            };
            if is_first.is_some() {
                q::insert_refresh_token(conn, &next.hash(), session.id, now).await?;
            }
            Ok(Ok(Opened { user, session, token: next }))
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

    /// A page of an account's open sessions, newest first: at most `limit` sessions, after the last session of the
    /// previous page.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list_sessions(
        &self,
        user: UserId,
        after: Option<SessionKey>,
        now: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Listed>, Error> {
        let rows = read!(self.db, |conn, q| -> Result<Vec<_>, Error> {
            Ok(q::list_sessions(conn, user, after, now, limit).await?)
        })?;
        Ok(rows.into_iter().map(Listed::from).collect())
    }

    /// Ends sessions from the list of an account's sessions, in the name of the user `by`. Returns how many were open.
    ///
    /// # Errors
    /// [`Error::NoLonger`]; [`Error::NoSuchUser`]; [`Error::NoSuchSession`] if the account never had the chosen session,
    /// or if it ended long ago. Also if the database fails.
    pub async fn end_listed(
        &self,
        actor: Actor,
        user: UserId,
        chosen: Chosen,
        by: UserId,
        now: DateTime<Utc>,
    ) -> Result<usize, Error> {
        write!(self.db, |conn, q| -> Result<usize, Error> {
            if let Actor::Holder { user, .. } = actor {
                actor.check(q::keep_user(conn, user).await?.map(User::from).as_ref())?;
            }
            let ended = q::end_listed(conn, user, chosen, by, now).await?;
            match chosen {
                _ if ended > 0 => {}
                Chosen::Only(session) if !q::has_session(conn, user, session).await? => {
                    return Err(Error::NoSuchSession(user, session));
                }
                Chosen::All | Chosen::AllBut(_) if q::user(conn, user).await?.is_none() => {
                    return Err(Error::NoSuchUser(user));
                }
                _ => {}
            }
            Ok(ended)
        })
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
