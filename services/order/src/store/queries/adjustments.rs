//! Adjustments of orders, and their effects on the orders.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::ReturnId;

use super::{
    super::{
        self as engine, Backend, Conn,
        schema::{order_lines, orders, return_lines, returns},
    },
    idempotency::{answer_adjustment, insert_record},
    orders::{order, record},
    rows::{ReturnLineRow, ReturnRow, adjustment_row, adjustment_state, step},
};
use crate::{
    domain::{Adjustment, Cause, Entry, Order, Pieces, State, Step},
    error::Error,
    store::{Key, Lease, adjustments::BegunAdjustment},
};

/// Inserts an adjustment of an order that had this version, its effects on the order, and its idempotency record. The
/// response is stored if the adjustment is final at once.
pub(in crate::store) async fn begin_adjustment(
    conn: &mut Conn,
    key: &Key,
    BegunAdjustment { order, version, adjustment, entries }: BegunAdjustment<'_>,
    lease: Lease,
    response: &[u8],
) -> Result<(), Error> {
    if !insert_record(conn, key, order.id, Some(adjustment.id), adjustment.create_time).await? {
        // Another request used the key for another order at the same moment. The transaction must not commit.
        return Err(Error::KeyRaced);
    }
    write_effects(conn, order, version, &adjustment.lines, entries).await?;
    diesel::insert_into(returns::table).values(adjustment_row(adjustment, lease)).execute(conn).await?;
    let lines = adjustment.lines.iter().map(|line| ReturnLineRow {
        return_id: adjustment.id,
        line_number: line.number,
        quantity: line.quantity,
    });
    engine::insert_return_lines(conn, lines.collect()).await?;
    if adjustment.step.is_none() {
        answer_adjustment(conn, adjustment, response).await?;
    }
    Ok(())
}

/// Stores the progress of an adjustment that was at this step, and its effects on the order. Returns `false` under the
/// same conditions as [`update_order`].
///
/// [`update_order`]: super::update_order
pub(in crate::store) async fn update_adjustment(
    conn: &mut Conn,
    adjustment: &Adjustment,
    step: Option<Step>,
    held: i64,
    entries: &[Entry],
    lease: Lease,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let running = adjustment.step.is_some();
    // The order is locked first, in the same lock order as when an adjustment is recorded.
    engine::lock_order(conn, adjustment.order).await?;
    let row = returns::table
        .find(adjustment.id)
        .filter(returns::lease.eq(held))
        .filter(returns::step.eq(step.map(|step| step.code())));
    let written = diesel::update(row)
        .set((
            returns::state.eq(adjustment_state(adjustment)),
            returns::step.eq(adjustment.step.map(|step| step.code())),
            returns::updated_at.eq(now),
            returns::lease.eq(running.then_some(lease.id)),
            returns::due_at.eq(running.then_some(lease.until)),
            returns::attempts.eq(0),
            returns::last_error.eq(None::<&str>),
            returns::settled_manually.eq(adjustment.settled_manually),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Ok(false);
    }
    let Some(mut order) = order(conn, adjustment.order, None).await? else {
        return Err(Error::Corrupt("an adjustment without its order".into()));
    };
    let version = order.version;
    order.take_adjustment(adjustment, entries.len(), now);
    write_effects(conn, &order, version, &[], entries).await?;
    Ok(true)
}

/// Writes the fields that adjustments, shipments and notes change, of an order that had this version and is locked in
/// this transaction. Of its lines, writes only those that `pieces` names.
pub(in crate::store) async fn write_effects(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    pieces: &[Pieces],
    entries: &[Entry],
) -> Result<(), Error> {
    let written = diesel::update(orders::table.find(order.id).filter(orders::version.eq(version)))
        .set((
            orders::refunded_minor.eq(order.refunded),
            orders::refunding_minor.eq(order.refunding),
            orders::payment_state.eq(order.payment.as_ref().map(|payment| payment.state.code())),
            orders::refunded_manually_minor.eq(order.payment.as_ref().map_or(0, |payment| payment.refunded_manually)),
            orders::updated_at.eq(order.update_time),
            orders::version.eq(order.version),
            orders::entries.eq(order.entries),
            orders::pending_returns.eq(order.pending_returns),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Err(Error::Corrupt("a locked order that changed".into()));
    }
    for line in order.lines.iter().filter(|line| pieces.iter().any(|piece| piece.number == line.number)) {
        diesel::update(order_lines::table.find((order.id, line.number)))
            .set((
                order_lines::returned.eq(line.returned),
                order_lines::returned_shipped.eq(line.returned_shipped),
                order_lines::cancelled.eq(line.cancelled),
                order_lines::shipped.eq(line.shipped),
            ))
            .execute(conn)
            .await?;
    }
    record(conn, order, entries).await
}

/// An adjustment.
pub(in crate::store) async fn find_adjustment(conn: &mut Conn, id: ReturnId) -> Result<Option<Adjustment>, Error> {
    let row = returns::table.find(id).select(ReturnRow::as_select()).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    let Some(order) = order(conn, row.order_id, None).await? else {
        return Err(Error::Corrupt("an adjustment without its order".into()));
    };
    Ok(with_pieces(conn, vec![row], &order).await?.pop())
}

/// A page of an order's adjustments with a refund, oldest first.
pub(in crate::store) async fn adjustments(
    conn: &mut Conn,
    order: &Order,
    after: Option<ReturnId>,
    limit: i64,
) -> Result<Vec<Adjustment>, Error> {
    let mut rows = returns::table
        .filter(returns::order_id.eq(order.id))
        .filter(returns::refund_minor.gt(0))
        .into_boxed::<Backend>();
    if let Some(after) = after {
        rows = rows.filter(returns::id.gt(after));
    }
    let rows = rows.order(returns::id).limit(limit).select(ReturnRow::as_select()).load(conn).await?;
    with_pieces(conn, rows, order).await
}

/// Adds the pieces to adjustments of one order, with one query. Keeps the order of the rows.
async fn with_pieces(conn: &mut Conn, rows: Vec<ReturnRow>, order: &Order) -> Result<Vec<Adjustment>, Error> {
    let ids: Vec<ReturnId> = rows.iter().map(|row| row.id).collect();
    let lines = return_lines::table
        .filter(return_lines::return_id.eq_any(ids))
        .order((return_lines::return_id, return_lines::line_number))
        .select(ReturnLineRow::as_select())
        .load(conn)
        .await?;
    let mut by_id = HashMap::<ReturnId, Vec<Pieces>>::new();
    for line in lines {
        let pieces = Pieces { number: line.line_number, quantity: line.quantity };
        by_id.entry(line.return_id).or_default().push(pieces);
    }
    rows.into_iter()
        .map(|row| {
            let lines = by_id.remove(&row.id).unwrap_or_default();
            let (cause, step) = (Cause::from_code(&row.cause)?, step(row.step.as_deref())?);
            Ok(Adjustment {
                id: row.id,
                order: row.order_id,
                cause,
                state: if step.is_some() { cause.running() } else { State::from_code(&row.state)? },
                step,
                goods: order.goods_of(&lines),
                lines,
                refund: order.money(row.refund_minor),
                reason: row.reason,
                time: row.returned_at,
                create_time: row.created_at,
                attempts: row.attempts,
                settled_manually: row.settled_manually,
            })
        })
        .collect()
}
