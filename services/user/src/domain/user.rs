//! An account.

use chrono::{DateTime, Utc};
use souk_common::{
    auth::{Role, Roles},
    ids::UserId,
};

use super::email::Email;

/// An account, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Address for log-in and mail, normalised.
    pub email: String,
    /// What to call the person; may be empty.
    pub display_name: String,
    /// The account's number in another system.
    pub external_id: Option<String>,
    /// Roles beyond being a customer.
    pub roles: Roles,
    /// Whether it may be used.
    pub state: State,
    /// Grows with every change.
    pub revision: i64,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
}

/// Whether an account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// May log in.
    Active,
    /// May not; every session has ended.
    Disabled,
}

impl State {
    /// Both states.
    pub const ALL: [Self; 2] = [Self::Active, Self::Disabled];

    /// The name in the store and in filters: the contract's, without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Disabled => "DISABLED",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl User {
    /// A new account of a customer.
    pub fn new(email: Email, display_name: String, external_id: String, now: DateTime<Utc>) -> Self {
        Self {
            id: UserId::new(),
            email: email.as_str().to_owned(),
            display_name,
            external_id: Some(external_id).filter(|id| !id.is_empty()),
            roles: Roles::default(),
            state: State::Active,
            revision: 1,
            create_time: now,
            update_time: now,
        }
    }

    /// Changes with every change of the account.
    pub fn etag(&self) -> String {
        format!("v{}", self.revision)
    }

    /// Whether the etag that a caller sent, if any, is the current one.
    pub fn matches(&self, etag: &str) -> bool {
        etag.is_empty() || etag == self.etag()
    }

    /// Whether the account administers souk now.
    pub fn is_active_admin(&self) -> bool {
        self.roles.has(Role::Admin) && self.state == State::Active
    }

    /// Notes that the account is another one from now on.
    pub fn touch(&mut self, now: DateTime<Utc>) {
        self.revision += 1;
        // A clock that was set back must not make the last change seem older than the one before.
        self.update_time = now.max(self.update_time);
    }
}
