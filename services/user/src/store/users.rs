//! Operations on accounts.

use chrono::{DateTime, Utc};
use souk_common::{
    auth::{Role, Roles},
    ids::UserId,
    page::Scan,
};
use souk_store::db::{read, write};

use super::{Store, postgres, rows::Key, sqlite};
use crate::{
    domain::{
        filter::Term,
        password::Hash,
        session::EndReason,
        update::{Change, Rights},
        user::{State, User},
    },
    error::Error,
};

/// The actor of a change of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The operator who runs the command line.
    Operator,
    /// A user who changes their own account.
    Owner,
    /// A user who is allowed to make the change only by a role. The user must still have the role when the change is
    /// written, because roles may change after the check of the request.
    Holder {
        /// The user.
        user: UserId,
        /// The required role. A role that includes it is sufficient, too.
        role: Role,
    },
}

impl Actor {
    /// Checks that the actor may act now. `own` is the actor's own account, if a role is required.
    pub(super) fn check(self, own: Option<&User>) -> Result<(), Error> {
        let Self::Holder { user, role } = self else { return Ok(()) };
        match own {
            Some(own) if own.id == user && own.state == State::Active && own.roles.grant(role) => Ok(()),
            _ => Err(Error::NoLonger(role)),
        }
    }
}

impl Store {
    /// One account.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`] if the account does not exist. Also if the database fails.
    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        let row = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::user(conn, id).await?) })?;
        row.map(User::from).ok_or(Error::NoSuchUser(id))
    }

    /// The account of a normalised email, with the hash of its password.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<(User, Option<Hash>)>, Error> {
        let found = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::user_by_email(conn, email).await?) })?;
        Ok(found.map(|(row, hash)| (row.into(), hash.map(Hash::stored))))
    }

    /// The hash of an account's password.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn password_hash(&self, id: UserId) -> Result<Option<Hash>, Error> {
        let found = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::password_hash(conn, id).await?) })?;
        Ok(found.flatten().map(Hash::stored))
    }

    /// Adds an account.
    ///
    /// # Errors
    /// [`Error::NoLonger`], [`Error::EmailTaken`], [`Error::ExternalIdTaken`]. Also if the database fails.
    pub async fn create_user(&self, actor: Actor, user: &User, password: Option<&Hash>) -> Result<(), Error> {
        let hash = password.map(Hash::as_str);
        write!(self.db, |conn, q| -> Result<(), Error> {
            if let Actor::Holder { user, .. } = actor {
                actor.check(q::keep_user(conn, user).await?.map(User::from).as_ref())?;
            }
            Ok(q::insert_user(conn, user, hash).await?)
        })
    }

    /// Adds the first administrator. If there is one already, adds nothing and returns `false`.
    ///
    /// # Errors
    /// [`Error::EmailTaken`]. Also if the database fails.
    pub async fn create_first_admin(&self, admin: &User, password: &Hash) -> Result<bool, Error> {
        write!(self.db, |conn, q| -> Result<bool, Error> {
            if q::admin_exists(conn).await? {
                return Ok(false);
            }
            q::insert_user(conn, admin, Some(password.as_str())).await?;
            Ok(true)
        })
    }

    /// True if any account is an active administrator.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn admin_exists(&self) -> Result<bool, Error> {
        read!(self.db, |conn, q| -> Result<bool, Error> { Ok(q::admin_exists(conn).await?) })
    }

    /// A page of accounts, newest first: at most `limit` accounts that meet all terms, after the last account of the
    /// previous page.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list_users(&self, terms: &[Term], after: Option<Key>, limit: i64) -> Result<Scan<User, Key>, Error> {
        let found = read!(self.db, |conn, q| -> Result<Scan<_, _>, Error> {
            Ok(q::list_users(conn, terms, after, limit).await?)
        });
        found?.try_map(|row| Ok(row.into()))
    }

    /// Changes an account. A change without a difference keeps the etag.
    ///
    /// # Errors
    /// [`Error::NoLonger`], [`Error::NoSuchUser`], [`Error::EtagMismatch`], [`Error::Invalid`], [`Error::LogInTooOld`],
    /// [`Error::EmailTaken`], [`Error::ExternalIdTaken`]. Also if the database fails.
    pub async fn update_user(
        &self,
        actor: Actor,
        id: UserId,
        etag: &str,
        change: &Change,
        rights: Rights,
        now: DateTime<Utc>,
    ) -> Result<User, Error> {
        write!(self.db, |conn, q| -> Result<User, Error> {
            if let Actor::Holder { user, .. } = actor {
                actor.check(q::keep_user(conn, user).await?.map(User::from).as_ref())?;
            }
            let mut user: User = q::lock_user(conn, id).await?.ok_or(Error::NoSuchUser(id))?.into();
            if !user.matches(etag) {
                return Err(Error::EtagMismatch);
            }
            let email = user.email.clone();
            if change.clone().apply(&mut user, rights.staff)? {
                if user.email != email && !rights.recent_log_in {
                    return Err(Error::LogInTooOld);
                }
                user.touch(now);
                q::update_user(conn, &user).await?;
            }
            Ok(user)
        })
    }

    /// Replaces an account's roles. If they change, its sessions end.
    ///
    /// # Errors
    /// [`Error::NoLonger`], [`Error::NoSuchUser`], [`Error::EtagMismatch`], [`Error::LastAdmin`]. Also if the database
    /// fails.
    pub async fn set_roles(
        &self,
        actor: Actor,
        id: UserId,
        etag: &str,
        roles: Roles,
        now: DateTime<Utc>,
    ) -> Result<User, Error> {
        write!(self.db, |conn, q| -> Result<User, Error> {
            let admins = q::lock_admins(conn).await?.into_iter().map(User::from).collect::<Vec<_>>();
            if let Actor::Holder { user, .. } = actor {
                actor.check(admins.iter().find(|admin| admin.id == user))?;
            }
            let mut user: User = q::lock_user(conn, id).await?.ok_or(Error::NoSuchUser(id))?.into();
            if !user.matches(etag) {
                return Err(Error::EtagMismatch);
            }
            if !roles.has(Role::Admin) && is_last(&admins, &user) {
                return Err(Error::LastAdmin(id));
            }
            if user.roles != roles {
                user.roles = roles;
                user.touch(now);
                q::update_user(conn, &user).await?;
                q::end_sessions_of(conn, id, EndReason::RolesChanged, now).await?;
            }
            Ok(user)
        })
    }

    /// Enables or disables an account. A disabled account's sessions end.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`], [`Error::LastAdmin`]. Also if the database fails.
    pub async fn set_state(&self, id: UserId, state: State, now: DateTime<Utc>) -> Result<User, Error> {
        write!(self.db, |conn, q| -> Result<User, Error> {
            let admins = q::lock_admins(conn).await?.into_iter().map(User::from).collect::<Vec<_>>();
            let mut user: User = q::lock_user(conn, id).await?.ok_or(Error::NoSuchUser(id))?.into();
            if state == State::Disabled && is_last(&admins, &user) {
                return Err(Error::LastAdmin(id));
            }
            if user.state != state {
                user.state = state;
                user.touch(now);
                q::update_user(conn, &user).await?;
            }
            if state == State::Disabled {
                q::end_sessions_of(conn, id, EndReason::AccountDisabled, now).await?;
            }
            Ok(user)
        })
    }

    /// Replaces an account's password, if it is still the one that was checked, and ends all sessions of the account.
    ///
    /// # Errors
    /// [`Error::CurrentPassword`] if the password was replaced meanwhile; [`Error::NoSuchUser`]. Also if the database
    /// fails.
    pub async fn change_password(
        &self,
        id: UserId,
        checked: &Hash,
        new: &Hash,
        now: DateTime<Utc>,
    ) -> Result<User, Error> {
        write!(self.db, |conn, q| -> Result<User, Error> {
            let mut user: User = q::lock_user(conn, id).await?.ok_or(Error::NoSuchUser(id))?.into();
            if !q::replace_password_hash(conn, id, checked.as_str(), new.as_str()).await? {
                return Err(Error::CurrentPassword);
            }
            user.touch(now);
            q::update_user(conn, &user).await?;
            q::end_sessions_of(conn, id, EndReason::PasswordChanged, now).await?;
            Ok(user)
        })
    }
}

/// True if this account is the only administrator.
fn is_last(admins: &[User], user: &User) -> bool {
    user.is_active_admin() && !admins.iter().any(|admin| admin.id != user.id && admin.is_active_admin())
}
