//! Returns, and what they change of their orders.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::ReturnId;

use super::{
    super::{
        self as engine, Conn,
        schema::{order_lines, orders, return_lines, returns},
    },
    orders::record,
    reading::order,
    rows::{ReturnLineRow, ReturnRow, step},
};
use crate::{
    domain::{Entry, Order, Return, ReturnLine, State, Step},
    store::{Lease, StoreError},
};

/// Writes how many pieces of each line have come back.
pub(in crate::store) async fn update_returned(
    conn: &mut Conn,
    order: &Order,
    numbers: &[i32],
) -> Result<(), StoreError> {
    for &number in numbers {
        let line = order.lines.iter().find(|line| line.number == number);
        diesel::update(order_lines::table.find((order.id, number)))
            .set(order_lines::returned.eq(line.map_or(0, |line| line.returned)))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Adds a return with its lines.
pub(in crate::store) async fn insert_return(conn: &mut Conn, back: &Return, lease: Lease) -> Result<(), StoreError> {
    let running = back.step.is_some();
    let row = ReturnRow {
        id: back.id,
        order_id: back.order,
        state: back.state.code().to_owned(),
        step: back.step.map(|step| step.code().to_owned()),
        refund_minor: back.refund.minor,
        reason: back.reason.clone(),
        returned_at: back.return_time,
        created_at: back.create_time,
        updated_at: back.create_time,
        lease: running.then_some(lease.id),
        due_at: running.then_some(lease.until),
        attempts: back.attempts,
    };
    diesel::insert_into(returns::table).values(row).execute(conn).await?;
    let lines = back.lines.iter().map(|line| ReturnLineRow {
        return_id: back.id,
        line_number: line.number,
        quantity: line.quantity,
    });
    engine::insert_return_lines(conn, lines.collect()).await?;
    Ok(())
}

/// Writes what changed of a return that was at this step, and of its order. `false` as in [`update_order`].
pub(in crate::store) async fn update_return(
    conn: &mut Conn,
    back: &Return,
    step: Option<Step>,
    held: i64,
    entries: &[Entry],
    (lease, now): (Lease, DateTime<Utc>),
) -> Result<bool, StoreError> {
    let running = back.step.is_some();
    // The order first, as whoever takes a return down does.
    engine::lock_order(conn, back.order).await?;
    let row = returns::table
        .find(back.id)
        .filter(returns::lease.eq(held))
        .filter(returns::step.eq(step.map(|step| step.code())));
    let written = diesel::update(row)
        .set((
            returns::state.eq(back.state.code()),
            returns::step.eq(back.step.map(|step| step.code())),
            returns::updated_at.eq(now),
            returns::lease.eq(running.then_some(lease.id)),
            returns::due_at.eq(running.then_some(lease.until)),
            returns::attempts.eq(0),
            returns::last_error.eq(None::<&str>),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Ok(false);
    }
    let Some(mut order) = order(conn, back.order, None).await? else {
        return Err(StoreError::Corrupt("a return without its order".into()));
    };
    let version = order.version;
    order.take_return(back, entries.len(), now);
    write_return_effects(conn, &order, version, entries).await?;
    Ok(true)
}

/// Of an order that had this version, and that this transaction has locked, what its returns change.
pub(in crate::store) async fn write_return_effects(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let written = diesel::update(orders::table.find(order.id).filter(orders::version.eq(version)))
        .set((
            orders::refunded_minor.eq(order.refunded),
            orders::payment_state.eq(order.payment.as_ref().map(|payment| payment.state.code())),
            orders::updated_at.eq(order.update_time),
            orders::version.eq(order.version),
            orders::entries.eq(order.entries),
            orders::pending_returns.eq(order.pending_returns),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Err(StoreError::Corrupt("a locked order that changed".into()));
    }
    record(conn, &[(order, entries)]).await
}

/// A return.
pub(in crate::store) async fn find_return(conn: &mut Conn, id: ReturnId) -> Result<Option<Return>, StoreError> {
    let row = returns::table.find(id).select(ReturnRow::as_select()).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    let lines = return_lines::table
        .filter(return_lines::return_id.eq(id))
        .order(return_lines::line_number)
        .select(ReturnLineRow::as_select())
        .load(conn)
        .await?;
    let Some(order) = order(conn, row.order_id, None).await? else {
        return Err(StoreError::Corrupt("a return without its order".into()));
    };
    let lines = lines
        .into_iter()
        .map(|line| ReturnLine { number: line.line_number, quantity: line.quantity })
        .collect::<Vec<_>>();
    Ok(Some(Return {
        id: row.id,
        order: row.order_id,
        state: State::from_code(&row.state)?,
        step: step(row.step.as_deref())?,
        goods: order.goods_of(&lines),
        lines,
        refund: order.money(row.refund_minor),
        reason: row.reason,
        return_time: row.returned_at,
        create_time: row.created_at,
        attempts: row.attempts,
    }))
}
