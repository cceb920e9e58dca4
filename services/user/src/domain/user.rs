//! User accounts.

use chrono::{DateTime, Utc};
use souk_common::{
    auth::{Role, Roles},
    ids::UserId,
};

use super::email::Email;

/// An account, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account's id.
    pub id: UserId,
    /// The email address for log-in and mail, normalised.
    pub email: String,
    /// The name of the person; may be empty.
    pub display_name: String,
    /// The account's id in another system.
    pub external_id: Option<String>,
    /// The roles of the account, beyond that of a customer.
    pub roles: Roles,
    /// Whether the account may be used.
    pub state: State,
    /// The version of the account: grows with every change.
    pub revision: i64,
    /// When the account was created.
    pub create_time: DateTime<Utc>,
    /// When the account last changed.
    pub update_time: DateTime<Utc>,
}

/// Whether an account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The user may log in.
    Active,
    /// The user may not log in, and every session has ended.
    Disabled,
}

impl State {
    /// All states.
    pub const ALL: [Self; 2] = [Self::Active, Self::Disabled];

    /// The name of the state in the database and in filters: the contract's name without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Disabled => "DISABLED",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl User {
    /// Creates an account of a customer.
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

    /// The etag. It changes with every change of the account.
    pub fn etag(&self) -> String {
        format!("v{}", self.revision)
    }

    /// True if the etag of a request is the current one, or is empty.
    pub fn matches(&self, etag: &str) -> bool {
        etag.is_empty() || etag == self.etag()
    }

    /// True if the account is an active administrator.
    pub fn is_active_admin(&self) -> bool {
        self.roles.has(Role::Admin) && self.state == State::Active
    }

    /// Records that the account has changed.
    pub fn touch(&mut self, now: DateTime<Utc>) {
        self.revision += 1;
        // The update time never decreases, even if the clock was set back.
        self.update_time = now.max(self.update_time);
    }
}
