//! Tests of the database foundation on both engines, with a store laid out as in the services.
//!
//! PostgreSQL is the server that `SOUK_TEST_DATABASE_URL` names; otherwise the testkit starts one. The tests pass at
//! any default isolation level.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

// The module has this name because `./test` selects these tests by it for the round with serializable transactions.
#[path = "db/mod.rs"]
mod db;
