//! Operations on the keys that sign access tokens.

use chrono::{DateTime, TimeDelta, Utc};
use souk_store::db::{read, write};

use super::{Store, postgres, sqlite};
use crate::{
    domain::{
        now,
        token::{LEEWAY, SigningKey},
    },
    error::Error,
};

/// How long a new key is published before it signs. In this time, all verifiers read the new key.
pub const PUBLISHED_BEFORE: TimeDelta = TimeDelta::seconds(10);

impl Store {
    /// All keys, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keys(&self) -> Result<Vec<SigningKey>, Error> {
        let rows = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::signing_keys(conn).await?) })?;
        Ok(rows.into_iter().map(SigningKey::from).collect())
    }

    /// Creates the first key, if there is none. If several replicas of the service start at once, all of them use the
    /// same key.
    ///
    /// # Errors
    /// If the system has no randomness, or the database fails.
    pub async fn ensure_key(&self) -> Result<(), Error> {
        if !self.keys().await?.is_empty() {
            return Ok(());
        }
        let now = now();
        let key = SigningKey::generate(now, now)?;
        let added = write!(self.db, |conn, q| -> Result<bool, Error> {
            if !q::signing_keys(conn).await?.is_empty() {
                return Ok(false);
            }
            q::insert_signing_key(conn, &key).await?;
            Ok(true)
        });
        if beaten_is_false(added)? {
            tracing::info!(kid = key.kid, "created the first signing key");
        }
        Ok(())
    }

    /// Creates a new key if the newest one was created before `older_than`. Returns its id, or `None` if no key was
    /// created. The new key is published at once and signs `PUBLISHED_BEFORE` later. The old one is published until
    /// the last token that it signed has expired.
    ///
    /// # Errors
    /// If the system has no randomness, or the database fails.
    pub async fn rotate_key(&self, now: DateTime<Utc>, older_than: DateTime<Utc>) -> Result<Option<String>, Error> {
        let key = SigningKey::generate(now, now + PUBLISHED_BEFORE)?;
        let replaced = write!(self.db, |conn, q| -> Result<bool, Error> {
            if !q::retire_signing_key(conn, older_than, key.sign_time).await? {
                return Ok(false);
            }
            q::insert_signing_key(conn, &key).await?;
            Ok(true)
        });
        if !beaten_is_false(replaced)? {
            return Ok(None);
        }
        tracing::info!(kid = key.kid, "created a new signing key");
        Ok(Some(key.kid))
    }

    /// Deletes keys that are no longer published. `ttl` is the validity of tokens. Returns the number of deleted keys.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn clean_keys(&self, now: DateTime<Utc>, ttl: TimeDelta) -> Result<u64, Error> {
        let retired_before = now - ttl - LEEWAY;
        let rows = write!(self.db, |conn, q| -> Result<usize, Error> {
            Ok(q::delete_signing_keys(conn, retired_before).await?)
        })?;
        Ok(rows as u64)
    }
}

/// Turns a conflict into `false`: another replica of the service added its key at the same moment.
fn beaten_is_false(result: Result<bool, Error>) -> Result<bool, Error> {
    match result {
        Err(Error::Db(error)) if error.unique_violation() == Some("signing_keys_newest") => Ok(false),
        other => other,
    }
}
