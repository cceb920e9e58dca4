//! Access tokens: signing, and the published keys that verify them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::auth::{self, Claims, KeySource, PublishedKey};
use souk_store::db::Db;
use uuid::Uuid;

use crate::{
    config::delta,
    domain::{
        now,
        session::Session,
        token::{LEEWAY, SigningKey, signer},
        user::User,
    },
    error::Error,
    store,
};

/// How long a new key is published before it signs, so that no verifier meets a token whose key it just missed.
pub const PUBLISHED_BEFORE: TimeDelta = TimeDelta::seconds(10);

/// Issues access tokens, and publishes the keys that verify them.
#[derive(Clone)]
pub struct Issuer {
    db: Db,
    issuer: String,
    audience: String,
    ttl: TimeDelta,
}

impl Issuer {
    /// Tokens that are valid for `ttl`.
    pub fn new(db: Db, auth: &auth::Config, ttl: Duration) -> Self {
        Self { db, issuer: auth.issuer.clone(), audience: auth.audience.clone(), ttl: delta(ttl) }
    }

    /// How long a token is valid.
    pub fn ttl(&self) -> TimeDelta {
        self.ttl
    }

    /// The key that signs now. Read each time, so that all replicas of the service change to a new one together.
    ///
    /// # Errors
    /// [`Error::NoSigningKey`] where none was made yet; faults of the database.
    pub async fn signing_key(&self) -> Result<SigningKey, Error> {
        let keys = store::keys::all(&self.db).await?;
        signer(keys, now()).ok_or(Error::NoSigningKey)
    }

    /// A token for a user's session.
    ///
    /// # Errors
    /// If the key is not one.
    pub fn issue(&self, key: &SigningKey, user: &User, session: &Session, now: DateTime<Utc>) -> Result<String, Error> {
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: user.id.to_string(),
            sid: session.id.to_string(),
            roles: user.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            scope: session.scope.clone(),
            iat: now.timestamp(),
            exp: (now + self.ttl).timestamp(),
            jti: Uuid::now_v7().to_string(),
        };
        Ok(key.sign(&claims)?)
    }

    /// The keys that tokens are checked with.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn published(&self) -> Result<Vec<SigningKey>, Error> {
        let now = now();
        let mut keys = store::keys::all(&self.db).await?;
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

/// Makes the first key, if there is none. Replicas of the service that start at once agree on one.
///
/// # Errors
/// If the system has no randomness to give; faults of the database.
pub async fn ensure_key(db: &Db) -> Result<(), Error> {
    if store::keys::all(db).await?.is_empty() {
        let now = now();
        let key = SigningKey::generate(now, now)?;
        if store::keys::insert_first(db, &key).await? {
            tracing::info!(kid = key.kid, "created the first signing key");
        }
    }
    Ok(())
}

/// Makes a new key, if the newest one was made before `older_than`; its id, if it did. The new key is published at
/// once and signs [`PUBLISHED_BEFORE`] later; the old one is published until the last token that it signed expired.
///
/// # Errors
/// If the system has no randomness to give; faults of the database.
pub async fn rotate_key(db: &Db, now: DateTime<Utc>, older_than: DateTime<Utc>) -> Result<Option<String>, Error> {
    let key = SigningKey::generate(now, now + PUBLISHED_BEFORE)?;
    if !store::keys::replace(db, &key, older_than).await? {
        return Ok(None);
    }
    tracing::info!(kid = key.kid, "created a new signing key");
    Ok(Some(key.kid))
}

/// Deletes keys that are no longer published; returns how many.
///
/// # Errors
/// Faults of the database.
pub async fn clean_keys(db: &Db, now: DateTime<Utc>, ttl: TimeDelta) -> Result<u64, Error> {
    store::keys::clean(db, now - ttl - LEEWAY).await
}
