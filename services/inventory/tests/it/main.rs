//! Tests of the inventory service as clients see it: a real server, real clients, a database on each engine, and access
//! tokens of a real user service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a failed test tells its seed")]

mod access;
mod bounded;
mod expiry;
mod feed;
mod harness;
mod histories;
mod locations;
mod low_stock;
mod manual;
mod products;
mod races;
mod reconcile;
mod reservations;
mod search;
mod stock;
mod texts;
mod verify;
mod watch;
