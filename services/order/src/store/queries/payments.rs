//! Webhooks of payment providers: those that were received, and the orders that they make due.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;

use super::super::{
    Conn,
    schema::{orders, payment_notices},
};
use crate::store::StoreError;

/// Whether a webhook was received before.
pub(in crate::store) async fn is_noticed(conn: &mut Conn, id: &str) -> Result<bool, StoreError> {
    Ok(diesel::select(diesel::dsl::exists(payment_notices::table.find(id))).get_result(conn).await?)
}

/// Records that a webhook was received.
pub(in crate::store) async fn notice(conn: &mut Conn, id: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    diesel::insert_into(payment_notices::table)
        .values((payment_notices::id.eq(id), payment_notices::received_at.eq(now)))
        .on_conflict(payment_notices::id)
        .do_nothing()
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes webhooks that are older than this.
pub(in crate::store) async fn forget_notices(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, StoreError> {
    let old = payment_notices::table.filter(payment_notices::received_at.lt(before));
    Ok(diesel::delete(old).execute(conn).await?)
}

/// Makes the next try of a waiting order due now. A running one is left alone.
pub(in crate::store) async fn wake(conn: &mut Conn, id: OrderId, now: DateTime<Utc>) -> Result<(), StoreError> {
    let waiting = orders::table.find(id).filter(orders::lease.is_null()).filter(orders::due_at.gt(now));
    diesel::update(waiting).set(orders::due_at.eq(now)).execute(conn).await?;
    Ok(())
}
