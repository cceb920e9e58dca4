//! The rules of products, stock and reservations: pure types and decisions, no I/O.

pub mod book;
pub mod command;
mod decide;
pub mod low;
mod manual;
pub mod product;
pub mod reconcile;
pub mod reservation;
pub mod search;
pub mod stock;
pub mod upsert;

#[cfg(test)]
mod tests;
