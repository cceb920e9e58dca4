//! The common base of all souk services: configuration, telemetry, contracts, access, servers, clients,
//! databases.
#![allow(clippy::duplicate_mod, reason = "a query file is compiled once for each engine")]

pub mod auth;
pub mod client;
pub mod coalesce;
pub mod config;
pub mod context;
pub mod db;
pub mod error;
pub mod events;
pub mod framing;
pub mod ids;
pub mod jobs;
pub mod local;
pub mod money;
pub mod page;
pub mod quota;
pub mod server;
pub mod service;
pub mod telemetry;
pub mod tls;
pub mod verify;

pub use souk_contract as contract;
