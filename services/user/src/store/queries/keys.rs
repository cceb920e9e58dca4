//! The keys that sign access tokens. Compiled once for each engine.

use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods, QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;

use super::super::{Conn, schema::signing_keys};
use crate::{domain::token::SigningKey, store::rows::KeyRow};

/// All keys, newest first. There are only a few.
pub async fn signing_keys(conn: &mut Conn) -> QueryResult<Vec<KeyRow>> {
    signing_keys::table.order(signing_keys::sign_time.desc()).load(conn).await
}

/// Inserts a key. Violates the unique index if there is a key that is not retired.
pub async fn insert_signing_key(conn: &mut Conn, key: &SigningKey) -> QueryResult<()> {
    let row = (
        signing_keys::kid.eq(&key.kid),
        signing_keys::private_key.eq(&key.private_key),
        signing_keys::public_key.eq(&key.public_key),
        signing_keys::create_time.eq(key.create_time),
        signing_keys::sign_time.eq(key.sign_time),
        signing_keys::retire_time.eq(key.retire_time),
    );
    diesel::insert_into(signing_keys::table).values(row).execute(conn).await.map(drop)
}

/// Sets the time at which the newest key retires, if it was created before `older_than`. Returns true if it was.
pub async fn retire_signing_key(
    conn: &mut Conn,
    older_than: DateTime<Utc>,
    retire_time: DateTime<Utc>,
) -> QueryResult<bool> {
    let newest = signing_keys::table.filter(signing_keys::retire_time.is_null());
    let old = newest.filter(signing_keys::create_time.lt(older_than));
    let rows = diesel::update(old).set(signing_keys::retire_time.eq(retire_time)).execute(conn).await?;
    Ok(rows == 1)
}

/// Deletes the keys that were retired before this time. Returns their number.
pub async fn delete_signing_keys(conn: &mut Conn, retired_before: DateTime<Utc>) -> QueryResult<usize> {
    let old = signing_keys::table.filter(signing_keys::retire_time.lt(retired_before));
    diesel::delete(old).execute(conn).await
}
