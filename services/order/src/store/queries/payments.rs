//! Records about payments: webhooks that were received from the provider, the Stripe intent of each payment, and the
//! books of the simulated provider, which simulates another company.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_store::db::{DbError, Keep as _};

use super::super::{
    self as engine, Backend, Conn, locked,
    schema::{payment_notices, simulated_payments, simulated_refunds, stripe_payments},
};
use crate::{
    error::Error,
    store::payments::{Booked, BookedState, Entry},
};

/// True if a webhook was received before.
pub(in crate::store) async fn is_noticed(conn: &mut Conn, id: &str) -> Result<bool, Error> {
    Ok(diesel::select(diesel::dsl::exists(payment_notices::table.find(id))).get_result(conn).await?)
}

/// Records that a webhook was received.
pub(in crate::store) async fn notice(conn: &mut Conn, id: &str, now: DateTime<Utc>) -> Result<(), Error> {
    diesel::insert_into(payment_notices::table)
        .values((payment_notices::id.eq(id), payment_notices::received_at.eq(now)))
        .on_conflict(payment_notices::id)
        .do_nothing()
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes the records of webhooks that are older than `before`.
pub(in crate::store) async fn forget_notices(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
    let old = payment_notices::table.filter(payment_notices::received_at.lt(before));
    Ok(diesel::delete(old).execute(conn).await?)
}

fn stripe_entry(intent: Option<String>, message: String) -> Entry {
    match intent {
        Some(intent) => Entry::Intent(intent),
        None if message.is_empty() => Entry::Free,
        None => Entry::Closed(message),
    }
}

/// The entry of a payment at Stripe.
pub(crate) async fn stripe_payment(conn: &mut Conn, key: &str) -> Result<Option<Entry>, DbError> {
    let row = stripe_payments::table.find(key).select((stripe_payments::intent, stripe_payments::message));
    Ok(row.first(conn).await.optional()?.map(|(intent, message)| stripe_entry(intent, message)))
}

/// Records an entry for a payment, unless there is one already. Returns the entry that is recorded then.
pub(crate) async fn insert_stripe_payment(
    conn: &mut Conn,
    key: &str,
    new: &Entry,
    now: DateTime<Utc>,
) -> Result<Entry, DbError> {
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
    let (intent, message) = row.first(conn).await?;
    Ok(stripe_entry(intent, message))
}

/// The key of the payment that has this intent.
pub(crate) async fn stripe_payment_key(conn: &mut Conn, intent: &str) -> Result<Option<String>, DbError> {
    let row = stripe_payments::table.filter(stripe_payments::intent.eq(intent)).select(stripe_payments::key);
    Ok(row.first(conn).await.optional()?)
}

/// A row of `simulated_payments`.
#[derive(Queryable, Selectable, Insertable, AsChangeset, serde::Serialize)]
#[diesel(table_name = simulated_payments, check_for_backend(Backend))]
pub(in crate::store) struct PaymentRow {
    pub key: String,
    pub reference: String,
    pub behaviour: String,
    pub state: String,
    pub currency: String,
    pub amount_minor: i64,
    pub refunded_minor: i64,
    pub message: String,
    pub expires_at: DateTime<Utc>,
    pub authorize_calls: i32,
    pub capture_calls: i32,
}

impl From<&Booked> for PaymentRow {
    fn from(booked: &Booked) -> Self {
        Self {
            key: booked.key.clone(),
            reference: booked.reference.clone(),
            behaviour: booked.behaviour.clone(),
            state: booked.state.code().to_owned(),
            currency: booked.currency.clone(),
            amount_minor: booked.amount,
            refunded_minor: booked.refunded,
            message: booked.message.clone(),
            expires_at: booked.expires_at,
            authorize_calls: booked.authorize_calls,
            capture_calls: booked.capture_calls,
        }
    }
}

/// Payments in the provider's books, by their keys, locked until the transaction ends.
pub(crate) async fn simulated_payments(conn: &mut Conn, keys: &[String]) -> Result<Vec<Booked>, DbError> {
    let rows = simulated_payments::table
        .filter(simulated_payments::key.eq_any(engine::padded(keys)))
        .order(simulated_payments::key)
        .select(PaymentRow::as_select());
    let rows: Vec<PaymentRow> = locked!(rows).kept().load(conn).await?;
    let booked = rows.into_iter().map(|row| Booked {
        key: row.key,
        reference: row.reference,
        behaviour: row.behaviour,
        state: BookedState::from_code(&row.state),
        currency: row.currency,
        amount: row.amount_minor,
        refunded: row.refunded_minor,
        message: row.message,
        expires_at: row.expires_at,
        authorize_calls: row.authorize_calls,
        capture_calls: row.capture_calls,
    });
    Ok(booked.collect())
}

/// Inserts new payments into the provider's books. `false` if one of them was inserted meanwhile.
pub(crate) async fn insert_simulated_payments(conn: &mut Conn, new: &[&Booked]) -> Result<bool, DbError> {
    let rows: Vec<PaymentRow> = new.iter().map(|booked| PaymentRow::from(*booked)).collect();
    Ok(new.is_empty() || engine::insert_payments(conn, rows).await? == new.len())
}

/// Updates payments that this transaction has locked.
pub(crate) async fn update_simulated_payments(conn: &mut Conn, changed: &[&Booked]) -> Result<(), DbError> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<PaymentRow> = changed.iter().map(|booked| PaymentRow::from(*booked)).collect();
    engine::update_payments(conn, rows).await?;
    Ok(())
}

/// The amount of a refund in the provider's books; `None` if it does not exist.
pub(crate) async fn simulated_refund(conn: &mut Conn, key: &str) -> Result<Option<i64>, DbError> {
    Ok(simulated_refunds::table.find(key).select(simulated_refunds::amount_minor).first(conn).await.optional()?)
}

/// Inserts a refund into the provider's books. `false` if it exists already.
pub(crate) async fn insert_simulated_refund(
    conn: &mut Conn,
    key: &str,
    payment: &str,
    amount: i64,
) -> Result<bool, DbError> {
    let written = diesel::insert_into(simulated_refunds::table)
        .values((
            simulated_refunds::key.eq(key),
            simulated_refunds::payment.eq(payment),
            simulated_refunds::amount_minor.eq(amount),
        ))
        .on_conflict(simulated_refunds::key)
        .do_nothing()
        .execute(conn)
        .await?;
    Ok(written == 1)
}
