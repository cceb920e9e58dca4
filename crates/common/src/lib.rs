//! The common base of all souk services: configuration, telemetry, contracts, access, servers, clients.

pub mod auth;
pub mod client;
pub mod client_details;
#[cfg(feature = "columns")]
mod columns;
pub mod config;
pub mod context;
pub mod error;
pub mod framing;
pub mod ids;
pub mod local;
pub mod money;
pub mod page;
pub mod quota;
pub mod server;
pub mod service;
pub mod telemetry;
pub mod tls;
pub mod user_service;

pub use souk_contract as contract;
