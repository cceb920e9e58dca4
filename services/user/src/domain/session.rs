//! Sessions, and the decisions about refresh tokens that were used before.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::ids::{SessionId, UserId};

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The scope that the session's tokens are limited to (RFC 8693): names separated by spaces. `None`: no limit.
    pub scope: Option<String>,
    /// When the user logged in.
    pub create_time: DateTime<Utc>,
    /// When the session ends if it is not used before. No token of it is valid for longer.
    pub expire_time: DateTime<Utc>,
}

/// An open session in the list of an account's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The session.
    pub session: Session,
    /// The account.
    pub user: UserId,
    /// The time of the log-in or of the last refresh.
    pub last_use_time: DateTime<Utc>,
    /// The `User-Agent` of the program that logged in. May be empty.
    pub user_agent: String,
    /// The address from which the session was last used. `None`: it is not known.
    pub client_address: Option<String>,
}

/// The sessions of an account that are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// All sessions.
    All,
    /// This one.
    Only(SessionId),
    /// All sessions except this one.
    AllBut(SessionId),
}

/// The life of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// How long a session lives without being used.
    pub idle: TimeDelta,
    /// How long a session lives after the log-in, however often it is used.
    pub absolute: TimeDelta,
}

impl Lifetime {
    /// When a session that began at `create_time` and is used now expires.
    pub fn expire_time(self, create_time: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
        (now + self.idle).min(create_time + self.absolute)
    }
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
    /// The user logged out, or the session was ended from the list of sessions.
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
    /// The session expired, because it was not used for too long, or because the log-in was too long ago.
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
    fn use_extends_a_session_up_to_its_absolute_end() {
        let lifetime = Lifetime { idle: TimeDelta::days(30), absolute: TimeDelta::days(90) };
        let begin = Utc::now();
        let days = |now| (lifetime.expire_time(begin, begin + TimeDelta::days(now)) - begin).num_days();
        assert_eq!([0, 29, 60, 61, 89].map(days), [30, 59, 90, 90, 90]);
        let short = Lifetime { absolute: TimeDelta::days(7), ..lifetime };
        assert_eq!(short.expire_time(begin, begin), begin + TimeDelta::days(7));
    }

    #[test]
    fn reuse_of_a_token_within_the_grace_time_is_no_theft() {
        let now = Utc::now();
        let judge = |ago| judge_reuse(now - TimeDelta::seconds(ago), now, TimeDelta::seconds(10));
        assert_eq!([judge(-3), judge(0), judge(10)], [Refused::JustUsed; 3]);
        assert_eq!([judge(11), judge(3600)], [Refused::Reused; 2]);
    }
}
