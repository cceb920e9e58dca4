//! Leases: given up, due, taken over.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ReturnId};

use super::{
    super::{
        Conn, claimable,
        schema::{orders, returns},
    },
    adjustments::find_adjustment,
    reading::with_lines,
    rows::OrderRow,
};
use crate::{
    domain::Saga,
    store::{Lease, Release, StoreError},
};

/// Releases a lease: the saga is due at `due`. Only the holder can.
pub(in crate::store) async fn release(
    conn: &mut Conn,
    saga: &Saga,
    Release { held, due, attempts, error }: Release<'_>,
) -> Result<(), StoreError> {
    match saga {
        Saga::Order(order) => {
            let row = orders::table.find(order.id).filter(orders::lease.eq(held));
            diesel::update(row)
                .set((
                    orders::lease.eq(None::<i64>),
                    orders::due_at.eq(due),
                    orders::attempts.eq(attempts),
                    orders::last_error.eq(error),
                ))
                .execute(conn)
                .await?
        }
        Saga::Adjustment(adjustment) => {
            let row = returns::table.find(adjustment.id).filter(returns::lease.eq(held));
            diesel::update(row)
                .set((
                    returns::lease.eq(None::<i64>),
                    returns::due_at.eq(due),
                    returns::attempts.eq(attempts),
                    returns::last_error.eq(error),
                ))
                .execute(conn)
                .await?
        }
    };
    Ok(())
}

/// Whether the saga of an order is being run now.
pub(in crate::store) async fn is_leased(conn: &mut Conn, id: OrderId, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let running = orders::table.find(id).filter(orders::lease.is_not_null()).filter(orders::due_at.gt(now));
    Ok(diesel::select(diesel::dsl::exists(running)).get_result(conn).await?)
}

/// Whether any saga is due.
pub(in crate::store) async fn is_any_due(conn: &mut Conn, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let orders: bool =
        diesel::select(diesel::dsl::exists(orders::table.filter(orders::due_at.le(now)))).get_result(conn).await?;
    let returns: bool =
        diesel::select(diesel::dsl::exists(returns::table.filter(returns::due_at.le(now)))).get_result(conn).await?;
    Ok(orders || returns)
}

/// Takes over due sagas, orders before adjustments.
pub(in crate::store) async fn claim(
    conn: &mut Conn,
    now: DateTime<Utc>,
    lease: Lease,
    limit: i64,
) -> Result<Vec<Saga>, StoreError> {
    let due = orders::table.filter(orders::due_at.le(now)).order(orders::due_at).limit(limit).select(orders::id);
    let ids: Vec<OrderId> = claimable!(due).load(conn).await?;
    let mut sagas = Vec::new();
    if !ids.is_empty() {
        diesel::update(orders::table.filter(orders::id.eq_any(ids.clone())))
            .set((orders::lease.eq(lease.id), orders::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
        let rows = orders::table.filter(orders::id.eq_any(ids)).select(OrderRow::as_select()).load(conn).await?;
        let orders = with_lines(conn, rows).await?;
        sagas.extend(orders.into_iter().map(|order| Saga::Order(Box::new(order))));
    }
    let left = limit - i64::try_from(sagas.len()).unwrap_or(limit);
    let due = returns::table.filter(returns::due_at.le(now)).order(returns::due_at).limit(left).select(returns::id);
    let ids: Vec<ReturnId> = claimable!(due).load(conn).await?;
    for id in ids {
        diesel::update(returns::table.find(id))
            .set((returns::lease.eq(lease.id), returns::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
        if let Some(adjustment) = find_adjustment(conn, id).await? {
            sagas.push(Saga::Adjustment(Box::new(adjustment)));
        }
    }
    Ok(sagas)
}
