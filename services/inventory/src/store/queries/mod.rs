//! The SQL that both engines share: compiled once for each.

pub mod batch;
pub mod locations;
pub mod products;
pub mod reservations;
pub mod stock;
pub mod verify;

/// The most values of a list in one statement. SQLite allows 32,766 parameters in all.
pub const CHUNK: usize = 8_000;
