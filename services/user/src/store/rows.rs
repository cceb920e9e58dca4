//! Rows of both engines, and their conversion to domain types.

use chrono::{DateTime, Utc};
use diesel::Queryable;
use souk_common::{
    auth::Role,
    ids::{SessionId, UserId},
};

use crate::domain::{
    session::{Listed, Session},
    token::SigningKey,
    user::{State, User},
};

/// The sort key of listed accounts.
pub type Key = (DateTime<Utc>, UserId);
/// The sort key of listed sessions.
pub type SessionKey = (DateTime<Utc>, SessionId);

/// A row of `users`, without the password.
#[derive(Queryable)]
pub struct UserRow {
    id: UserId,
    email: String,
    display_name: String,
    external_id: Option<String>,
    is_staff: bool,
    is_admin: bool,
    state: String,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        let roles = [(row.is_staff, Role::Staff), (row.is_admin, Role::Admin)];
        Self {
            id: row.id,
            email: row.email,
            display_name: row.display_name,
            external_id: row.external_id,
            roles: roles.into_iter().filter_map(|(held, role)| held.then_some(role)).collect(),
            // If this version does not know the state, the account cannot log in.
            state: State::parse(&row.state).unwrap_or(State::Disabled),
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// A row of `sessions` that is open.
#[derive(Queryable)]
pub struct SessionRow {
    id: SessionId,
    user: UserId,
    create_time: DateTime<Utc>,
    expire_time: DateTime<Utc>,
    scope: Option<String>,
    last_use_time: Option<DateTime<Utc>>,
    user_agent: String,
    client_address: Option<String>,
}

impl From<SessionRow> for Listed {
    fn from(row: SessionRow) -> Self {
        let SessionRow { id, scope, create_time, expire_time, .. } = row;
        Self {
            session: Session { id, scope, create_time, expire_time },
            user: row.user,
            last_use_time: row.last_use_time.unwrap_or(create_time),
            user_agent: row.user_agent,
            client_address: row.client_address,
        }
    }
}

/// A row of `refresh_tokens`, without its hash.
#[derive(Queryable)]
pub struct TokenRow {
    /// The session of the token.
    pub session: SessionId,
    /// When the token was used; `None` if it was not.
    pub use_time: Option<DateTime<Utc>>,
    /// The salt of the successor token.
    pub successor_salt: Option<Vec<u8>>,
}

/// A row of `signing_keys`.
#[derive(Queryable)]
pub struct KeyRow {
    kid: String,
    private_key: Vec<u8>,
    public_key: Vec<u8>,
    create_time: DateTime<Utc>,
    sign_time: DateTime<Utc>,
    retire_time: Option<DateTime<Utc>>,
}

impl From<KeyRow> for SigningKey {
    fn from(row: KeyRow) -> Self {
        Self {
            kid: row.kid,
            private_key: row.private_key,
            public_key: row.public_key,
            create_time: row.create_time,
            sign_time: row.sign_time,
            retire_time: row.retire_time,
        }
    }
}
