//! Sessions, and what becomes of a refresh token that is sent.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::ids::SessionId;

/// What the tokens of a session are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session.
    pub id: SessionId,
    /// What its tokens are limited to (RFC 8693): names with spaces between them. `None`: to nothing.
    pub scope: Option<String>,
}

/// A session that has ended. In their order they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ended {
    /// When it ended.
    pub time: DateTime<Utc>,
    /// Which.
    pub session: SessionId,
}

/// Why a session ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its user logged out.
    LogOut,
    /// Its user changed the password.
    PasswordChanged,
    /// The account got other roles: tokens that say the old ones must not live on.
    RolesChanged,
    /// The account may no longer be used.
    AccountDisabled,
    /// One of its refresh tokens came twice: someone has a copy.
    TokenReused,
}

impl EndReason {
    /// The name in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LogOut => "LOG_OUT",
            Self::PasswordChanged => "PASSWORD_CHANGED",
            Self::RolesChanged => "ROLES_CHANGED",
            Self::AccountDisabled => "ACCOUNT_DISABLED",
            Self::TokenReused => "TOKEN_REUSED",
        }
    }
}

/// Why a refresh token gives no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No such token was ever given out, or its session has ended.
    Unknown,
    /// Its session was not used for too long.
    Expired,
    /// It was exchanged a moment ago, and what it was exchanged for is in use already.
    JustUsed,
    /// It was exchanged before: its session is ended now.
    Reused,
}

/// What a token that was used before means now: within the grace two requests at once or an answer that was lost, later
/// a theft.
pub fn judge_reuse(use_time: DateTime<Utc>, now: DateTime<Utc>, grace: TimeDelta) -> Refused {
    // Negative where another replica of the service, whose clock is ahead, used it: that is "just now" as well.
    if now - use_time <= grace { Refused::JustUsed } else { Refused::Reused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reuse_within_the_grace_is_no_theft() {
        let now = Utc::now();
        let judge = |ago| judge_reuse(now - TimeDelta::seconds(ago), now, TimeDelta::seconds(10));
        assert_eq!([judge(-3), judge(0), judge(10)], [Refused::JustUsed; 3]);
        assert_eq!([judge(11), judge(3600)], [Refused::Reused; 2]);
    }
}
