//! The database foundation on both engines, with a store laid out as every service's is.
//!
//! PostgreSQL is the server that `SOUK_TEST_DATABASE_URL` names, else one the testkit starts. The tests hold at any
//! default isolation level.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

// A module of this name, so that `./test` finds these tests for its round with serializable transactions.
#[path = "db/mod.rs"]
mod db;
