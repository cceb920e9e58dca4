//! The SQL that both engines share: compiled once for each.

pub mod batch;
pub mod locations;
pub mod products;
pub mod reservations;
pub mod stock;
pub mod verify;

/// How many values a statement binds at most in one list: SQLite takes 32,766 in all.
pub const CHUNK: usize = 8_000;
