//! SessionService: log-in, refresh, log-out, and the published keys.

use souk_proto::user::v1::{
    GetJsonWebKeySetRequest, GetJsonWebKeySetResponse, ListEndedSessionsRequest, ListEndedSessionsResponse,
    LogInRequest, LogOutRequest, LogOutResponse, RefreshSessionRequest, Session,
    session_service_server::SessionService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, convert, ended};
use crate::{
    domain::{
        email::Email,
        now,
        password::{Password, Verdict},
        session,
        token::{RefreshToken, Salt, SigningKey},
        user::{State, User},
    },
    error::Error,
    store::{
        self,
        sessions::{Exchange, Exchanged},
    },
};

#[tonic::async_trait]
impl SessionService for Rpc {
    async fn log_in(&self, request: Request<LogInRequest>) -> Result<Response<Session>, Status> {
        let request = request.into_inner();
        let password = Password::typed(request.password);
        let found = match Email::parse(&request.email) {
            Ok(email) => store::users::by_email(&self.0.db, email.as_str()).await?,
            Err(_) => None,
        };
        let (user, hash) = found.unzip();
        let hash = hash.flatten();
        // Also without an account or with a disabled one, so that the response time reveals
        // nothing.
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
        let opening = store::sessions::Opening { scope, token: &token, now: now(), ttl: self.0.session_ttl };
        let begun = store::sessions::begin(&self.0.db, &user, &checked, &hash, opening).await?;
        self.reply(&key, begun, token)
    }

    async fn refresh_session(&self, request: Request<RefreshSessionRequest>) -> Result<Response<Session>, Status> {
        let token = RefreshToken::sent(request.into_inner().refresh_token);
        // Read the key before the exchange: once the token is used, nothing may fail.
        let key = self.0.issuer.signing_key().await?;
        let salt = Salt::random().map_err(Error::from)?;
        let exchange = Exchange { salt, now: now(), ttl: self.0.session_ttl, grace: self.0.refresh_grace };
        let Exchanged { user, session, token } = store::sessions::refresh(&self.0.db, &token, &exchange).await?;
        self.reply(&key, (user, session), token)
    }

    async fn log_out(&self, request: Request<LogOutRequest>) -> Result<Response<LogOutResponse>, Status> {
        let token = RefreshToken::sent(request.into_inner().refresh_token);
        store::sessions::end(&self.0.db, &token, now()).await?;
        Ok(Response::new(LogOutResponse {}))
    }

    async fn list_ended_sessions(
        &self,
        request: Request<ListEndedSessionsRequest>,
    ) -> Result<Response<ListEndedSessionsResponse>, Status> {
        Ok(Response::new(ended::list(&self.0.db, &self.0.issuer, request.get_ref()).await?))
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
    fn reply(
        &self,
        key: &SigningKey,
        (user, session): (User, session::Session),
        token: RefreshToken,
    ) -> Result<Response<Session>, Status> {
        let access_token = self.0.issuer.issue(key, &user, &session, now())?;
        Ok(Response::new(Session {
            access_token,
            token_type: "Bearer".into(),
            expires_in: Some(convert::duration(self.0.issuer.ttl())),
            refresh_token: token.expose(),
            user: Some(convert::user(user)),
            scopes: session.scope.iter().flat_map(|scope| scope.split(' ')).map(str::to_owned).collect(),
        }))
    }
}
