//! The SQL of the simulated payment provider, which stands for another company's.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_store::db::DbError;

use super::schema::{simulated_payments, simulated_refunds};
use super::{Backend, Conn};
use crate::store::books::{Booked, BookedState};

/// A row of `simulated_payments`.
#[derive(Queryable, Selectable, Insertable, AsChangeset, serde::Serialize)]
#[diesel(table_name = simulated_payments, check_for_backend(Backend))]
pub(in crate::store) struct Row {
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

impl From<&Booked> for Row {
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
pub(crate) async fn find(conn: &mut Conn, keys: &[String]) -> Result<Vec<Booked>, DbError> {
    let rows = simulated_payments::table
        .filter(simulated_payments::key.eq_any(keys))
        .order(simulated_payments::key)
        .select(Row::as_select());
    let rows: Vec<Row> = super::locked!(rows).load(conn).await?;
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

/// Writes new payments into the provider's books. `false` if someone wrote one of them in between.
pub(crate) async fn add(conn: &mut Conn, new: &[&Booked]) -> Result<bool, DbError> {
    let rows: Vec<Row> = new.iter().map(|booked| Row::from(*booked)).collect();
    Ok(new.is_empty() || super::insert_payments(conn, rows).await? == new.len())
}

/// Writes changes of payments that this transaction has locked.
pub(crate) async fn update(conn: &mut Conn, changed: &[&Booked]) -> Result<(), DbError> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<Row> = changed.iter().map(|booked| Row::from(*booked)).collect();
    super::update_payments(conn, rows).await?;
    Ok(())
}

/// Whether a refund is in the provider's books, and of how much.
pub(crate) async fn refund(conn: &mut Conn, key: &str) -> Result<Option<i64>, DbError> {
    Ok(simulated_refunds::table.find(key).select(simulated_refunds::amount_minor).first(conn).await.optional()?)
}

/// Writes a refund into the provider's books. `false` if it is there.
pub(crate) async fn add_refund(conn: &mut Conn, key: &str, payment: &str, amount: i64) -> Result<bool, DbError> {
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
