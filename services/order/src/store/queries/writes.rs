//! Writes of orders, a batch at a time.

use super::{
    super::{self as engine, Conn},
    batch::Batch,
    rows::OrderUpdate,
};
use crate::{
    domain::{Entry, Order},
    store::{Lease, Placing, SavedStep, StoreError},
};

/// Records orders, and stores step results of others. Returns for each new order whether its key was new, and for
/// each step whether its order was unchanged and its lease still held. Otherwise nothing of it was written. It is one
/// statement on PostgreSQL.
pub(in crate::store) async fn write(
    conn: &mut Conn,
    placings: &[&Placing],
    steps: &[&SavedStep],
) -> Result<(Vec<bool>, Vec<bool>), StoreError> {
    let mut batch = Batch::default();
    let placings = placings.iter().map(|placing| batch.place(placing)).collect::<Result<Vec<_>, _>>()?;
    let steps = steps.iter().map(|step| batch.save(step)).collect::<Result<Vec<_>, _>>()?;
    let done = engine::write(conn, batch).await?;
    let is_done = |nths: Vec<_>| nths.iter().map(|nth| done.contains(nth)).collect();
    Ok((is_done(placings), is_done(steps)))
}

/// Records timeline entries of an order, and their events.
pub(super) async fn record(conn: &mut Conn, order: &Order, entries: &[Entry]) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.record(None, order, entries);
    engine::write(conn, batch).await?;
    Ok(())
}

/// Writes what changed of an order that had this version, as [`write`] does for a whole batch.
pub(in crate::store) async fn update_order(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
    lease: Lease,
) -> Result<bool, StoreError> {
    let mut batch = Batch::default();
    let nth = batch.change(OrderUpdate::new(order, version, None, lease)?);
    batch.record(Some(nth), order, entries);
    Ok(engine::write(conn, batch).await?.contains(&nth))
}
