//! The test kit against real servers: what it promises to everyone else's tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod database;
mod process;
mod proxy;
mod servers;
