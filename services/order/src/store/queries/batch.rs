//! A batch of writes of orders: one statement on PostgreSQL, one hop to the writer on SQLite.

use souk_common::ids::OrderId;
use souk_store::events::Draft;

use super::rows::{EntryRow, KeyRow, LineRow, OrderRow, OrderUpdate, entry_rows, line_row, order_row};
use crate::{
    domain::{Entry, Order},
    error::Error,
    events,
    store::{Placing, SavedStep},
};

/// The number of a write on which other writes depend.
pub(in crate::store) type Nth = i32;

/// A row that is written only if the write with this number took effect: an insert of a new key, or a change of an
/// order that was still as expected. `None`: the row is always written.
pub(in crate::store) struct After<T> {
    pub nth: Option<Nth>,
    pub row: T,
}

/// The response to the request that made an order.
pub(in crate::store) struct AnswerRow {
    pub order: OrderId,
    pub response: Vec<u8>,
}

/// Writes for one transaction.
#[derive(Default)]
pub(in crate::store) struct Batch {
    next: Nth,
    pub keys: Vec<(Nth, KeyRow)>,
    pub orders: Vec<After<OrderRow>>,
    pub lines: Vec<After<LineRow>>,
    pub updates: Vec<(Nth, OrderUpdate)>,
    pub entries: Vec<After<EntryRow>>,
    pub events: Vec<After<Draft>>,
    pub answers: Vec<After<AnswerRow>>,
}

impl Batch {
    /// Inserts an idempotency record if the key is new.
    pub fn insert_record(&mut self, key: KeyRow) -> Nth {
        self.next += 1;
        self.keys.push((self.next, key));
        self.next
    }

    /// Changes an order if it is as expected. If the order is cancelled, all its pieces that were not returned are
    /// cancelled.
    pub fn change(&mut self, update: OrderUpdate) -> Nth {
        self.next += 1;
        self.updates.push((self.next, update));
        self.next
    }

    /// Records an order, with its key, lines and first entries, if the key is new.
    pub fn place(&mut self, placing: &Placing) -> Result<Nth, Error> {
        let Placing { key, order, entries, lease } = placing;
        let nth = self.insert_record(KeyRow::new(key, order.id, None, order.create_time));
        self.orders.push(After { nth: Some(nth), row: order_row(order, *lease)? });
        self.lines.extend(order.lines.iter().map(|line| After { nth: Some(nth), row: line_row(order.id, line) }));
        self.record(Some(nth), order, entries);
        Ok(nth)
    }

    /// Stores the result of a step, if the order is unchanged and the lease is still held.
    pub fn save(&mut self, step: &SavedStep) -> Result<Nth, Error> {
        let SavedStep { order, version, entries, response, held, lease } = step;
        let nth = self.change(OrderUpdate::new(order, *version, Some(*held), *lease)?);
        self.record(Some(nth), order, entries);
        if let Some(response) = response {
            self.answer(Some(nth), order.id, response.clone());
        }
        Ok(nth)
    }

    /// Records timeline entries of an order, and their events.
    pub fn record(&mut self, nth: Option<Nth>, order: &Order, entries: &[Entry]) {
        self.entries.extend(entry_rows(order, entries).map(|row| After { nth, row }));
        self.events.extend(events::drafts(order, entries).into_iter().map(|row| After { nth, row }));
    }

    /// Stores the response to the request that made an order.
    pub fn answer(&mut self, nth: Option<Nth>, order: OrderId, response: Vec<u8>) {
        self.answers.push(After { nth, row: AnswerRow { order, response } });
    }
}
