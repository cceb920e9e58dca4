//! Writes of manually settled steps.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::ReturnId;

use super::{
    super::{
        self as engine, Conn,
        schema::{orders, returns},
    },
    batch::Batch,
};
use crate::{
    domain::{Order, Step},
    store::{Lease, StoreError},
};

/// Stores that an operator settled an order's payment, which no other step of its saga changes, and the response to
/// its request, if it is final now.
pub(in crate::store) async fn settle_manually(
    conn: &mut Conn,
    order: &Order,
    response: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let (settled, refunded) =
        order.payment.as_ref().map_or((false, 0), |payment| (payment.settled_manually, payment.refunded_manually));
    diesel::update(orders::table.find(order.id))
        .set((orders::payment_settled_manually.eq(settled), orders::refunded_manually_minor.eq(refunded)))
        .execute(conn)
        .await?;
    if let Some(response) = response {
        let mut batch = Batch::default();
        batch.answer(None, order.id, response);
        engine::write(conn, batch).await?;
    }
    Ok(())
}

/// Takes over an adjustment that is at this step. `false` if someone runs it.
pub(in crate::store) async fn take_over(
    conn: &mut Conn,
    id: ReturnId,
    step: Step,
    lease: Lease,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let free = returns::lease.is_null().or(returns::due_at.le(now));
    let row = returns::table.find(id).filter(returns::step.eq(step.code())).filter(free);
    let taken = (returns::lease.eq(lease.id), returns::due_at.eq(lease.until));
    Ok(diesel::update(row).set(taken).execute(conn).await? == 1)
}
