//! The SQL of orders, written once and compiled for each engine.

mod adjustments;
mod batch;
mod deliveries;
mod endpoints;
mod idempotency;
mod orders;
mod payments;
mod rows;
mod sagas;
mod shipments;
pub(in crate::store) mod verify;

pub(crate) use self::payments::{
    insert_simulated_payments, insert_simulated_refund, insert_stripe_payment, simulated_payments, simulated_refund,
    stripe_payment, stripe_payment_key, update_simulated_payments,
};
pub(in crate::store) use self::{
    adjustments::{adjustments, begin_adjustment, find_adjustment, update_adjustment, write_effects},
    batch::{After, Batch, Nth},
    deliveries::{
        DeliveryRow, claim_deliveries, delivery, due_endpoints, forget_deliveries, insert_delivery, list_deliveries,
        record_deliveries, redeliver, release_delivery, settle_delivery,
    },
    endpoints::{
        delete_endpoint, endpoint, endpoint_to_change, endpoints, insert_endpoint, resume_deliveries, update_endpoint,
    },
    idempotency::{answer_adjustment, find_record, forget, insert_answered_record},
    orders::{
        exists, external_id_is_taken, is_at, list, order, order_to_change, order_to_change_once, timeline,
        update_order, write,
    },
    payments::{PaymentRow, forget_notices, is_noticed, notice},
    rows::{ReturnLineRow, ShipmentLineRow},
    sagas::{claim, find_saga, is_any_due, is_leased, list_sagas, make_due, release, settle_manually, take_over, wake},
    shipments::{insert_shipment, shipments},
    verify::{check_promise, known_orders, sold_orders},
};
