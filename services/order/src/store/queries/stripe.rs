//! The SQL of payments at Stripe: which intent stands for which order.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_store::db::DbError;

use super::{Conn, schema::stripe_payments};
use crate::store::books::Entry;

fn entry((intent, message): (Option<String>, String)) -> Entry {
    match intent {
        Some(intent) => Entry::Intent(intent),
        None if message.is_empty() => Entry::Free,
        None => Entry::Closed(message),
    }
}

/// What stands for a payment.
pub(crate) async fn find(conn: &mut Conn, key: &str) -> Result<Option<Entry>, DbError> {
    let row = stripe_payments::table.find(key).select((stripe_payments::intent, stripe_payments::message));
    Ok(row.first(conn).await.optional()?.map(entry))
}

/// Lets an entry stand for a payment, unless there is one. Returns the one that stands there then.
pub(crate) async fn write(conn: &mut Conn, key: &str, new: &Entry, now: DateTime<Utc>) -> Result<Entry, DbError> {
    let (intent, message) = match new {
        Entry::Intent(intent) => (Some(intent.as_str()), ""),
        Entry::Closed(message) => (None, message.as_str()),
        Entry::Free => (None, ""),
    };
    let row = (
        stripe_payments::key.eq(key),
        stripe_payments::intent.eq(intent),
        stripe_payments::message.eq(message),
        stripe_payments::created_at.eq(now),
    );
    diesel::insert_into(stripe_payments::table)
        .values(row)
        .on_conflict(stripe_payments::key)
        .do_nothing()
        .execute(conn)
        .await?;
    let row = stripe_payments::table.find(key).select((stripe_payments::intent, stripe_payments::message));
    Ok(entry(row.first(conn).await?))
}

/// The payment for which an intent stands.
pub(crate) async fn key_of(conn: &mut Conn, intent: &str) -> Result<Option<String>, DbError> {
    let row = stripe_payments::table.filter(stripe_payments::intent.eq(intent)).select(stripe_payments::key);
    Ok(row.first(conn).await.optional()?)
}
