//! How a service is served, and what it keeps its data with: two database engines, migrations, batches that share a
//! commit, the log of events, jobs.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod coalesce;
pub mod db;
pub mod events;
pub mod jobs;
pub mod service;
pub mod verify;
