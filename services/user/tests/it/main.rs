//! Tests of the user service as clients see it: a real server, real clients, and a database on each engine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod access;
mod accounts;
mod admin;
mod devices;
mod ended;
mod harness;
mod jobs;
mod keys;
mod lists;
mod passwords;
mod races;
mod recent;
mod secrets;
mod sessions;
mod updates;
