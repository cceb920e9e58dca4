//! Keys that access tokens are signed with.

use chrono::{DateTime, Utc};
use souk_store::db::{Db, read, write};

use super::{postgres, sqlite};
use crate::{domain::token::SigningKey, error::Error};

/// All keys, newest first.
///
/// # Errors
/// Faults of the database.
pub async fn all(db: &Db) -> Result<Vec<SigningKey>, Error> {
    let rows = read!(db, |conn, q| -> Result<_, Error> { Ok(q::signing_keys(conn).await?) })?;
    Ok(rows.into_iter().map(SigningKey::from).collect())
}

/// Adds the first key. `false` if there is one already; then nothing is added.
///
/// # Errors
/// Faults of the database.
pub async fn insert_first(db: &Db, key: &SigningKey) -> Result<bool, Error> {
    let added = write!(db, |conn, q| -> Result<bool, Error> {
        if !q::signing_keys(conn).await?.is_empty() {
            return Ok(false);
        }
        q::insert_signing_key(conn, key).await?;
        Ok(true)
    });
    beaten_is_false(added)
}

/// Replaces the newest key, which signs until the new one does. `false` if the newest key was not created before
/// `older_than`; then nothing changes.
///
/// # Errors
/// Faults of the database.
pub async fn replace(db: &Db, key: &SigningKey, older_than: DateTime<Utc>) -> Result<bool, Error> {
    let replaced = write!(db, |conn, q| -> Result<bool, Error> {
        if !q::retire_signing_key(conn, older_than, key.sign_time).await? {
            return Ok(false);
        }
        q::insert_signing_key(conn, key).await?;
        Ok(true)
    });
    beaten_is_false(replaced)
}

/// Another replica of the service added its key in the same moment.
fn beaten_is_false(result: Result<bool, Error>) -> Result<bool, Error> {
    match result {
        Err(Error::Db(error)) if error.unique_violation() == Some("signing_keys_newest") => Ok(false),
        other => other,
    }
}

/// Deletes the keys that were retired before then; returns how many.
///
/// # Errors
/// Faults of the database.
pub async fn clean(db: &Db, retired_before: DateTime<Utc>) -> Result<u64, Error> {
    let rows =
        write!(db, |conn, q| -> Result<usize, Error> { Ok(q::delete_signing_keys(conn, retired_before).await?) })?;
    Ok(rows as u64)
}
