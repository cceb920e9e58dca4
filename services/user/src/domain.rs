//! The rules of accounts and sessions: pure types and decisions, no I/O.

pub mod email;
pub mod filter;
pub mod password;
pub mod session;
pub mod token;
pub mod update;
pub mod user;

use chrono::{DateTime, SubsecRound, Utc};

/// The current time in microseconds, the precision of both engines, so that a stored time compares equal.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
