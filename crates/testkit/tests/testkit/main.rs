//! Tests of the testkit's promises with real servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod database;
mod process;
mod proxy;
mod servers;
