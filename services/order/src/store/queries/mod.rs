//! The SQL of orders, written once and compiled for each engine.

mod keys;
mod orders;
mod reading;
mod returns;
mod rows;
mod sagas;

pub(in crate::store) use self::{
    keys::{answer_return, forget, recall, remember},
    orders::{place, save, update_order},
    reading::{exists, is_at, list, order, order_to_change, timeline},
    returns::{find_return, insert_return, update_return, update_returned, write_return_effects},
    rows::{EntryRow, KeyRow, LineRow, OrderRow, OrderUpdate, ReturnLineRow},
    sagas::{claim, is_any_due, release},
};
