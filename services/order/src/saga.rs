//! The saga that places, cancels and adjusts orders. Requests begin it, and the saga job continues it after a failure.
//!
//! Its table, which says what step follows which outcome, is a rule of the domain
//! ([`domain::saga`](crate::domain)): the store applies it inside of a transaction, below this module.

pub(crate) mod answer;
pub mod ports;
pub mod runner;
