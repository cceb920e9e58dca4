//! The common parts of a service: its server, and its storage with two database engines, migrations, batch writers, the
//! event log and jobs.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod coalesce;
pub mod db;
pub mod events;
pub mod jobs;
pub mod service;
pub mod verify;
