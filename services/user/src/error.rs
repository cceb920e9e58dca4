//! The errors of this service, and the statuses that clients get.

use souk_common::{
    auth::{Role, has_ended, reauthentication_required},
    error::{Problem, Reason},
    ids::{SessionId, UserId},
};
use souk_store::db::{DbError, Failure};

use crate::domain::{password::HashError, session::Refused, token::TokenError, update::UpdateError};

/// A failure of this service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is invalid.
    #[error("{path} {description}")]
    Invalid {
        /// The path of the field, with the names of the contract.
        path: String,
        /// A description of a valid value.
        description: String,
    },
    /// The account is not the caller's. Also used if the account does not exist, so that callers cannot distinguish the
    /// two.
    #[error("{} is not the caller's", .0.name())]
    Denied(UserId),
    /// The caller lost this role while the change was being made.
    #[error("the role {} is needed, and was lost meanwhile", .0.as_str())]
    NoLonger(Role),
    /// The change needs a recent log-in.
    #[error("the log-in is too old")]
    LogInTooOld,
    /// The session is not active, or does not belong to the user.
    #[error("the session has ended")]
    SessionEnded,
    /// The account does not exist.
    #[error("{} does not exist", .0.name())]
    NoSuchUser(UserId),
    /// The account has no such session.
    #[error("{} does not exist", session_name(*.0, *.1))]
    NoSuchSession(UserId, SessionId),
    /// Another account has this email.
    #[error("the email is in use")]
    EmailTaken,
    /// Another account has this external id.
    #[error("the external id is in use")]
    ExternalIdTaken,
    /// The account changed since the caller read it.
    #[error("the etag is not the current one")]
    EtagMismatch,
    /// The change would leave souk without an administrator.
    #[error("{} is the last administrator", .0.name())]
    LastAdmin(UserId),
    /// Wrong email or password, or the account is disabled.
    #[error("the credentials are wrong")]
    Credentials,
    /// The current password is wrong.
    #[error("the current password is wrong")]
    CurrentPassword,
    /// The refresh token was refused.
    #[error("the refresh token is refused: {0:?}")]
    Refresh(Refused),
    /// No key signs tokens at the moment.
    #[error("no signing key")]
    NoSigningKey,
    /// A password could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The task that hashes a password ended without a result.
    #[error("hashing a password was broken off")]
    Hasher(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A token could not be created.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The database failed.
    #[error(transparent)]
    Db(DbError),
}

impl From<UpdateError> for Error {
    fn from(error: UpdateError) -> Self {
        Self::Invalid { path: error.path, description: error.description }
    }
}

impl From<DbError> for Error {
    /// A unique value that is taken is a fault of the request. Everything else is a fault of the service.
    fn from(error: DbError) -> Self {
        match error.unique_violation() {
            Some("users_email_key" | "users.email") => Self::EmailTaken,
            Some("users_external_id_key" | "users.external_id") => Self::ExternalIdTaken,
            _ => Self::Db(error),
        }
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

impl Failure for Error {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            _ => None,
        }
    }
}

/// The resource types of the contract.
const USER: &str = "souk/User";
const SESSION: &str = "souk/UserSession";

/// The resource name of a session.
pub(crate) fn session_name(user: UserId, session: SessionId) -> String {
    format!("{}/{}", user.name(), session.name())
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { path, description } => Self::invalid(path, description),
            Error::Denied(user) => Self::access_denied(user.name()),
            Error::NoLonger(role) => Self::new(
                Reason::AccessDenied,
                format!("this method needs the role {}, which you no longer hold", role.as_str()),
            ),
            Error::LogInTooOld => reauthentication_required(),
            Error::SessionEnded => has_ended(),
            Error::NoSuchUser(user) => Self::not_found(user.name()).resource(USER, user.name()),
            Error::NoSuchSession(user, session) => {
                let name = session_name(user, session);
                Self::not_found(&name).resource(SESSION, name)
            }
            Error::EmailTaken => {
                Self::new(Reason::ResourceExists, "an account with this email exists already").resource(USER, "")
            }
            Error::ExternalIdTaken => {
                Self::new(Reason::ResourceExists, "an account with this external_id exists already").resource(USER, "")
            }
            Error::EtagMismatch => Self::etag_mismatch(),
            Error::LastAdmin(user) => {
                Self::new(Reason::StateConflict, "this is the last administrator: make another account one first")
                    .violation("LAST_ADMIN", user.name(), "somebody must be able to administer souk")
            }
            Error::Credentials => {
                Self::new(Reason::CredentialsInvalid, "wrong email or password, or the account is disabled")
            }
            Error::CurrentPassword => {
                Self::new(Reason::CredentialsInvalid, "current_password is not the account's password")
                    .field("current_password", "must be the account's password")
            }
            Error::Refresh(refused) => refresh(refused),
            Error::Db(error) => database(error),
            fault @ (Error::NoSigningKey | Error::Hash(_) | Error::Hasher(_) | Error::Token(_)) => {
                Self::internal().caused_by(fault)
            }
        }
    }
}

fn database(error: DbError) -> Problem {
    if error.is_unavailable() {
        error.problem("the database").caused_by(error)
    } else if error.is_conflict() {
        Problem::new(Reason::Conflict, "concurrent changes kept colliding: try again").caused_by(error)
    } else {
        Problem::internal().caused_by(error)
    }
}

fn refresh(refused: Refused) -> Problem {
    match refused {
        Refused::Unknown => {
            Problem::new(Reason::TokenInvalid, "the refresh token is unknown or its session has ended: log in again")
        }
        Refused::Expired => Problem::new(Reason::TokenExpired, "the session has expired: log in again"),
        Refused::JustUsed => Problem::new(
            Reason::Conflict,
            "this refresh token was just exchanged, and its successor is in use: continue with that session",
        ),
        Refused::Reused => Problem::new(
            Reason::TokenInvalid,
            "the refresh token was used before, so its session has been ended for safety: log in again",
        ),
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}
