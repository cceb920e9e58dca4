//! The rules of accounts and sessions: pure types and decisions, no I/O.

pub mod email;
pub mod filter;
pub mod password;
pub mod session;
pub mod token;
pub mod update;
pub mod user;

use chrono::{DateTime, SubsecRound, Utc};

/// Now, in the microseconds that both engines keep, so that a time compares equal after it was stored.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
