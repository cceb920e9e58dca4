//! The SQL of orders, written once and compiled for each engine.

mod adjustments;
mod batch;
mod inspector;
mod keys;
mod manual;
mod notices;
mod orders;
mod reading;
mod rows;
mod sagas;
mod shipments;

pub(in crate::store) use self::{
    adjustments::{adjustments, begin_adjustment, find_adjustment, update_adjustment, write_effects},
    batch::{After, Batch, Nth},
    inspector::{find_saga, list_sagas, make_due},
    keys::{answer_adjustment, find_record, forget, insert_answered_record},
    manual::{settle_manually, take_over},
    notices::{forget_notices, is_noticed, notice, wake},
    orders::{update_order, write},
    reading::{exists, external_id_is_taken, is_at, list, order, order_to_change, order_to_change_once, timeline},
    rows::{ReturnLineRow, ShipmentLineRow},
    sagas::{claim, is_any_due, is_leased, release},
    shipments::{insert_shipment, shipments},
};
