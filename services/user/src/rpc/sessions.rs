//! SessionService: log-in, refresh, log-out, an account's open sessions, the list of ended sessions, and the published
//! keys. Also the check of this service's own callers against ended sessions.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    auth::{Caller, Grant, Identity, Recheck, Role},
    client_details::ClientDetails,
    error::{Problem, Reason},
    ids::SessionId,
    page::{self, Scan},
};
use souk_proto::user::v1::{
    EndSessionRequest, EndSessionResponse, EndSessionsRequest, EndSessionsResponse, GetJsonWebKeySetRequest,
    GetJsonWebKeySetResponse, ListEndedSessionsRequest, ListEndedSessionsResponse, ListSessionsRequest,
    ListSessionsResponse, LogInRequest, LogOutRequest, LogOutResponse, RefreshSessionRequest, Session,
    list_ended_sessions_response::EndedSession, session_service_server::SessionService,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Rpc, actor, convert, reached};
use crate::{
    domain::{
        email::Email,
        now,
        password::{Password, Verdict},
        session::{Chosen, Ended, Listed},
        token::{LEEWAY, RefreshToken, Salt, SigningKey},
        user::State,
    },
    error::Error,
    store::{Exchange, Opened, Opening, Store},
};

/// The most sessions in a page.
const PAGE: i64 = 1000;
/// The overlap of two reads. A session's end time is the begin of its transaction, by the clock of its replica. A
/// reader may have seen later end times before this transaction was committed.
const AGAIN: TimeDelta = TimeDelta::minutes(2);

#[tonic::async_trait]
impl SessionService for Rpc {
    async fn log_in(&self, request: Request<LogInRequest>) -> Result<Response<Session>, Status> {
        let client = ClientDetails::of(&request);
        let request = request.into_inner();
        let password = Password::typed(request.password);
        let found = match Email::parse(&request.email) {
            Ok(email) => self.0.store.user_by_email(email.as_str()).await?,
            Err(_) => None,
        };
        let (user, hash) = found.unzip();
        let hash = hash.flatten();
        // Also done if the account does not exist or is disabled, so that the response time reveals nothing.
        let verdict = self.0.hasher.verify(password.clone(), hash.clone()).await?;
        let active = user.filter(|user| user.state == State::Active && verdict != Verdict::Wrong);
        let (Some(user), Some(checked)) = (active, hash) else {
            return Err(Error::Credentials.into());
        };
        let hash = match verdict {
            Verdict::RightButOld => self.0.hasher.hash(password).await?,
            _ => checked.clone(),
        };
        let key = self.0.issuer.signing_key().await?;
        let token = RefreshToken::random().map_err(Error::from)?;
        let scope = Some(request.scopes.join(" ")).filter(|scope| !scope.is_empty());
        let opening = Opening { scope, token, now: now(), lifetime: self.0.lifetime, client };
        let opened = self.0.store.begin_session(&user, &checked, &hash, opening).await?;
        self.reply(&key, opened)
    }

    async fn refresh_session(&self, request: Request<RefreshSessionRequest>) -> Result<Response<Session>, Status> {
        let client_address = ClientDetails::of(&request).address;
        let token = RefreshToken::sent(request.into_inner().refresh_token);
        // The key is read before the exchange: nothing may fail after the token was used.
        let key = self.0.issuer.signing_key().await?;
        let salt = Salt::random().map_err(Error::from)?;
        let exchange =
            Exchange { salt, now: now(), lifetime: self.0.lifetime, grace: self.0.refresh_grace, client_address };
        let opened = self.0.store.refresh_session(&token, &exchange).await?;
        self.reply(&key, opened)
    }

    async fn log_out(&self, request: Request<LogOutRequest>) -> Result<Response<LogOutResponse>, Status> {
        let token = RefreshToken::sent(request.into_inner().refresh_token);
        self.0.store.end_session(&token, now()).await?;
        Ok(Response::new(LogOutResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let user = reached(&caller, "parent", &request.parent)?;
        if caller.grant == Grant::All {
            // An account that does not exist has no list.
            self.0.store.user(user).await?;
        }
        let query = ("sessions.list", user);
        let size = page::size(request.page_size);
        let after: Option<(DateTime<Utc>, SessionId)> = page::decode(&request.page_token, &query)
            .map_err(|error| Problem::new(Reason::PageTokenInvalid, format!("page_token {error}")))?;
        let rows = self.0.store.list_sessions(user, after, now(), size + 1).await?;
        let key = |listed: &Listed| (listed.session.create_time, listed.session.id);
        let current = caller.session();
        let message = |listed| convert::session(listed, current);
        let (sessions, next_page_token) = page::cut(Scan::all(rows), size, &query, key, message);
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token }))
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Result<Response<EndSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let nowhere = || Problem::invalid("name", "must be `users/usr_…/sessions/ses_…`");
        let (user, session) = request.get_ref().name.split_once("/sessions/").ok_or_else(nowhere)?;
        let user = reached(&caller, "name", user)?;
        let chosen = Chosen::Only(session.parse().map_err(|_| nowhere())?);
        let actor = actor(&caller, Role::Admin)?;
        self.0.store.end_listed(actor, user, chosen, caller.user()?, now()).await?;
        Ok(Response::new(EndSessionResponse {}))
    }

    async fn end_sessions(
        &self,
        request: Request<EndSessionsRequest>,
    ) -> Result<Response<EndSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let user = reached(&caller, "parent", &request.parent)?;
        let chosen = match caller.session().filter(|_| request.keep_current) {
            Some(current) => Chosen::AllBut(current),
            None => Chosen::All,
        };
        let actor = actor(&caller, Role::Admin)?;
        let ended = self.0.store.end_listed(actor, user, chosen, caller.user()?, now()).await?;
        Ok(Response::new(EndSessionsResponse { ended_count: ended as i64 }))
    }

    async fn list_ended_sessions(
        &self,
        request: Request<ListEndedSessionsRequest>,
    ) -> Result<Response<ListEndedSessionsResponse>, Status> {
        let request = request.get_ref();
        let (begin, nil) = (now(), SessionId::from_uuid(Uuid::nil()));
        let life = self.0.issuer.ttl() + LEEWAY;
        let oldest = Ended { time: begin - life, session: nil };
        let after = match request.cursor.as_str() {
            "" => oldest,
            cursor => {
                let place = read(cursor).ok_or_else(|| Problem::invalid("cursor", "must be one that was answered"))?;
                place.max(oldest)
            }
        };
        let size = match i64::from(request.page_size) {
            1..PAGE => i64::from(request.page_size),
            _ => PAGE,
        };
        let ended = self.0.store.ended_sessions(after, size).await?;
        let more = ended.len() as i64 == size;
        let next = match ended.last() {
            Some(last) if more => *last,
            // All sessions that ended until now were returned.
            _ => Ended { time: begin - AGAIN, session: nil },
        };
        let told = |ended: Ended| EndedSession {
            session_id: ended.session.to_string(),
            token_expire_time: Some(convert::timestamp(ended.time + life)),
        };
        let sessions = ended.into_iter().map(told).collect();
        Ok(Response::new(ListEndedSessionsResponse { sessions, cursor: write(next), more }))
    }

    async fn get_json_web_key_set(
        &self,
        _: Request<GetJsonWebKeySetRequest>,
    ) -> Result<Response<GetJsonWebKeySetResponse>, Status> {
        let keys = self.0.issuer.published().await?.into_iter().map(convert::key).collect();
        Ok(Response::new(GetJsonWebKeySetResponse { keys }))
    }
}

impl Rpc {
    fn reply(&self, key: &SigningKey, opened: Opened) -> Result<Response<Session>, Status> {
        let Opened { user, session, token } = opened;
        let (access_token, expires_in) = self.0.issuer.issue(key, &user, &session, now())?;
        Ok(Response::new(Session {
            access_token,
            token_type: "Bearer".into(),
            expires_in: Some(convert::duration(expires_in)),
            refresh_token: token.expose(),
            user: Some(convert::user(user)),
            scopes: convert::scopes(session.scope.as_deref()),
        }))
    }
}

fn write(Ended { time, session }: Ended) -> String {
    format!("{}.{session}", time.timestamp_micros())
}

fn read(cursor: &str) -> Option<Ended> {
    let (time, session) = cursor.split_once('.')?;
    let time = DateTime::from_timestamp_micros(time.parse().ok()?)?;
    Some(Ended { time, session: session.parse().ok()? })
}

/// Reads the caller's account in the database. Other services poll for ended sessions; this service has them in its own
/// database.
pub struct Accounts(pub Store);

#[tonic::async_trait]
impl Recheck for Accounts {
    async fn now(&self, identity: Identity) -> Result<Identity, Problem> {
        let Identity::User { id, roles, session, scopes, auth_time } = identity else { return Ok(identity) };
        let user = self.0.session_holder(session, id).await?.ok_or(Error::SessionEnded)?;
        // Never grant more roles than the token has.
        let roles = roles.iter().filter(|role| user.roles.has(*role)).collect();
        Ok(Identity::User { id, roles, session, scopes, auth_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cursor_is_parsed_and_other_texts_are_refused() {
        let place = Ended { time: now(), session: SessionId::new() };
        assert_eq!(read(&write(place)), Some(place));
        for text in ["x", "1", "1.", ".ses_00000000000000000000000000", "9999999999999999999.x", "1.ses_x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
