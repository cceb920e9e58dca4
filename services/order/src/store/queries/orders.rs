//! Writes of orders, a batch at a time.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;

use super::{
    super::{self as engine, Conn, schema::order_lines},
    keys::{recall, remember_all},
    rows::{KeyRow, OrderUpdate, entry_rows, line_row, order_row},
};
use crate::{
    domain::{Entry, Order, State},
    outbox,
    store::{Lease, Memory, Placing, SavedStep, StoreError},
};

/// Takes orders down, each with its key, lines and first entries. Where a key is remembered already, the order is
/// left out, and the answer is what is remembered.
pub(in crate::store) async fn place(conn: &mut Conn, placings: &[&Placing]) -> Result<Vec<Option<Memory>>, StoreError> {
    // The keys first: of several equal requests, they let one go on.
    let keys = placings.iter().map(|p| KeyRow::new(&p.key, p.order.id, None, p.order.create_time));
    let new = remember_all(conn, keys.collect()).await?;
    let mut known = Vec::with_capacity(placings.len());
    let (mut orders, mut lines, mut happened) = (Vec::new(), Vec::new(), Vec::new());
    for placing in placings {
        if !new.contains(&placing.order.id) {
            let memory = recall(conn, &placing.key).await?;
            known.push(Some(memory.ok_or_else(|| StoreError::Corrupt("a key that is and is not there".into()))?));
            continue;
        }
        known.push(None);
        orders.push(order_row(&placing.order, placing.lease)?);
        lines.extend(placing.order.lines.iter().map(|line| line_row(placing.order.id, line)));
        happened.push((&placing.order, placing.entries.as_slice()));
    }
    if !orders.is_empty() {
        engine::insert_orders(conn, orders, lines).await?;
        record(conn, &happened, Vec::new()).await?;
    }
    Ok(known)
}

/// Writes down what happened to orders: in their timelines, for whoever follows the log of events, and as the answers
/// to the requests that made them.
pub(super) async fn record(
    conn: &mut Conn,
    happened: &[(&Order, &[Entry])],
    answers: Vec<(OrderId, Vec<u8>)>,
) -> Result<(), StoreError> {
    let entries = happened.iter().flat_map(|(order, entries)| entry_rows(order, entries)).collect();
    let events = happened.iter().flat_map(|(order, entries)| outbox::drafts(order, entries)).collect();
    Ok(engine::record(conn, entries, events, answers).await?)
}

/// Stores how steps of orders ended. `false` for each whose order has moved on, or whose lease is someone else's by
/// now: nothing was written of it then.
pub(in crate::store) async fn save(conn: &mut Conn, steps: &[&SavedStep]) -> Result<Vec<bool>, StoreError> {
    let updates = steps.iter().map(|s| OrderUpdate::new(&s.order, s.version, Some(s.held), s.lease));
    let saved = engine::update_orders(conn, updates.collect::<Result<_, _>>()?).await?;
    let mut happened = Vec::new();
    for (step, saved) in steps.iter().zip(&saved) {
        if *saved {
            happened.push((&step.order, step.entries.as_slice()));
            after_update(conn, &step.order).await?;
        }
    }
    let saved_steps = steps.iter().zip(&saved).filter(|(_, saved)| **saved);
    let answers = saved_steps.filter_map(|(step, _)| Some((step.order.id, step.response.clone()?)));
    record(conn, &happened, answers.collect()).await?;
    Ok(saved)
}

/// Writes what changed of an order that had this version, as [`save`] does for a whole batch.
pub(in crate::store) async fn update_order(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
    lease: Lease,
) -> Result<bool, StoreError> {
    let update = OrderUpdate::new(order, version, None, lease)?;
    if engine::update_orders(conn, vec![update]).await? != [true] {
        return Ok(false);
    }
    after_update(conn, order).await?;
    record(conn, &[(order, entries)], Vec::new()).await?;
    Ok(true)
}

/// What changes beside an order's own row.
async fn after_update(conn: &mut Conn, order: &Order) -> Result<(), StoreError> {
    if order.state == State::Cancelled {
        diesel::update(order_lines::table.filter(order_lines::order_id.eq(order.id)))
            .set(order_lines::cancelled.eq(order_lines::quantity - order_lines::returned))
            .execute(conn)
            .await?;
    }
    Ok(())
}
