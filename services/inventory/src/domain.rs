//! The rules of products, stock and reservations: pure types and decisions, no I/O.

pub mod book;
pub mod command;
pub mod location;
pub mod product;
pub mod reservation;
pub mod stock;
