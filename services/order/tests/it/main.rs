//! Tests of the order service as clients see it: real servers of orders, inventory and users, real clients, and a
//! database on each engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access;
mod adjust;
mod cancel;
mod faults;
mod harness;
mod histories;
mod idempotency;
mod leases;
mod lists;
mod manual;
mod notes;
mod place;
mod returns;
mod sagas;
mod shipments;
mod stripe;
mod verify;
mod watch;
mod webhooks;
