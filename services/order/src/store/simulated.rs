//! The SQL of the simulated payment provider, which stands for another company's.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::db::DbError;

use super::schema::{simulated_payments, simulated_refunds};
use super::{Backend, Conn};
use crate::payment::simulated::{Booked, BookedState};

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = simulated_payments, check_for_backend(Backend))]
struct Row {
    key: String,
    reference: String,
    behaviour: String,
    state: String,
    currency: String,
    amount_minor: i64,
    refunded_minor: i64,
    message: String,
    expires_at: DateTime<Utc>,
    authorize_calls: i32,
    capture_calls: i32,
}

/// A payment in the provider's books.
pub(crate) async fn find(conn: &mut Conn, key: &str) -> Result<Option<Booked>, DbError> {
    let row = simulated_payments::table.find(key).select(Row::as_select()).first(conn).await.optional()?;
    Ok(row.map(|row| Booked {
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
    }))
}

/// Writes a payment into the provider's books. `false` where someone wrote the same one in between.
pub(crate) async fn put(conn: &mut Conn, before: Option<&Booked>, after: &Booked) -> Result<bool, DbError> {
    let row = Row {
        key: after.key.clone(),
        reference: after.reference.clone(),
        behaviour: after.behaviour.clone(),
        state: after.state.code().to_owned(),
        currency: after.currency.clone(),
        amount_minor: after.amount,
        refunded_minor: after.refunded,
        message: after.message.clone(),
        expires_at: after.expires_at,
        authorize_calls: after.authorize_calls,
        capture_calls: after.capture_calls,
    };
    let written = match before {
        None => {
            diesel::insert_into(simulated_payments::table)
                .values(row)
                .on_conflict(simulated_payments::key)
                .do_nothing()
                .execute(conn)
                .await?
        }
        Some(before) => {
            // Whatever changes a payment changes one of these.
            let unchanged = simulated_payments::table
                .find(&after.key)
                .filter(simulated_payments::state.eq(before.state.code()))
                .filter(simulated_payments::refunded_minor.eq(before.refunded))
                .filter(simulated_payments::authorize_calls.eq(before.authorize_calls))
                .filter(simulated_payments::capture_calls.eq(before.capture_calls));
            diesel::update(unchanged).set(row).execute(conn).await?
        }
    };
    Ok(written == 1)
}

/// Whether a refund is in the provider's books, and of how much.
pub(crate) async fn refund(conn: &mut Conn, key: &str) -> Result<Option<i64>, DbError> {
    Ok(simulated_refunds::table.find(key).select(simulated_refunds::amount_minor).first(conn).await.optional()?)
}

/// Writes a refund into the provider's books. `false` where it is there.
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
