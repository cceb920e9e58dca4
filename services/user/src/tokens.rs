//! Access tokens: signing, and the published keys that verify them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::auth::{self, Claims, KeySource, PublishedKey};
use uuid::Uuid;

use crate::{
    config::delta,
    domain::{
        now,
        session::Session,
        token::{SigningKey, signer},
        user::User,
    },
    error::Error,
    store::Store,
};

/// Issues access tokens, and publishes the keys that verify them.
#[derive(Clone)]
pub struct Issuer {
    store: Store,
    issuer: String,
    audience: String,
    ttl: TimeDelta,
}

impl Issuer {
    /// Issues tokens that are valid for `ttl`.
    pub fn new(store: Store, auth: &auth::Config, ttl: Duration) -> Self {
        Self { store, issuer: auth.issuer.clone(), audience: auth.audience.clone(), ttl: delta(ttl) }
    }

    /// The validity of a token.
    pub fn ttl(&self) -> TimeDelta {
        self.ttl
    }

    /// The key that signs new tokens now. It is read each time, so that all replicas of the service change to a new key
    /// at the same time.
    ///
    /// # Errors
    /// [`Error::NoSigningKey`] if there is no key yet. Also if the database fails.
    pub async fn signing_key(&self) -> Result<SigningKey, Error> {
        let keys = self.store.keys().await?;
        signer(keys, now()).ok_or(Error::NoSigningKey)
    }

    /// Issues a token for a user's session. Returns it with its validity, which ends with that of the session.
    ///
    /// # Errors
    /// If the key is invalid.
    pub fn issue(
        &self,
        key: &SigningKey,
        user: &User,
        session: &Session,
        now: DateTime<Utc>,
    ) -> Result<(String, TimeDelta), Error> {
        let ttl = self.ttl.min(session.expire_time - now);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: user.id.to_string(),
            sid: session.id.to_string(),
            roles: user.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            scope: session.scope.clone(),
            auth_time: Some(session.create_time.timestamp()),
            iat: now.timestamp(),
            exp: (now + ttl).timestamp(),
            jti: Uuid::now_v7().to_string(),
        };
        Ok((key.sign(&claims)?, ttl))
    }

    /// The keys that verify tokens.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn published(&self) -> Result<Vec<SigningKey>, Error> {
        let now = now();
        let mut keys = self.store.keys().await?;
        keys.retain(|key| key.is_published(now, self.ttl));
        Ok(keys)
    }
}

#[tonic::async_trait]
impl KeySource for Issuer {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        let keys = self.published().await?;
        Ok(keys.into_iter().map(|key| PublishedKey { x: key.x(), kid: key.kid }).collect())
    }
}
