//! Sessions, and the decisions about refresh tokens that were used before.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::ids::SessionId;

/// The data of a session that its tokens contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The scope that the session's tokens are limited to (RFC 8693): names separated by spaces. `None`: no limit.
    pub scope: Option<String>,
}

/// A session that has ended. The order of this type is the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ended {
    /// When the session ended.
    pub time: DateTime<Utc>,
    /// The session's id.
    pub session: SessionId,
}

/// Why a session was ended before it expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The user logged out.
    LogOut,
    /// The user changed the password.
    PasswordChanged,
    /// The roles of the account changed, so tokens with the old roles must become invalid.
    RolesChanged,
    /// The account was disabled.
    AccountDisabled,
    /// One of the session's refresh tokens was used twice, so someone has a copy.
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

/// Why a refresh token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The token was never issued, or its session has ended.
    Unknown,
    /// The session expired, because it was not used for too long.
    Expired,
    /// The token was exchanged a moment ago, and its successor was used already.
    JustUsed,
    /// The token was exchanged before. Its session was ended now.
    Reused,
}

/// Decides about a token that was used before. Within the grace period, two requests ran at once or a response was
/// lost. Later, the reuse counts as a theft.
pub fn judge_reuse(use_time: DateTime<Utc>, now: DateTime<Utc>, grace: TimeDelta) -> Refused {
    // The difference is negative if another replica of the service, whose clock is ahead, used the token. That counts
    // as within the grace period, too.
    if now - use_time <= grace { Refused::JustUsed } else { Refused::Reused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuse_of_a_token_within_the_grace_time_is_no_theft() {
        let now = Utc::now();
        let judge = |ago| judge_reuse(now - TimeDelta::seconds(ago), now, TimeDelta::seconds(10));
        assert_eq!([judge(-3), judge(0), judge(10)], [Refused::JustUsed; 3]);
        assert_eq!([judge(11), judge(3600)], [Refused::Reused; 2]);
    }
}
