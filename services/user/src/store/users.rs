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
        update::Change,
        user::{State, User},
    },
    error::Error,
};

/// Who changes an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The person who runs the program: the command line.
    Operator,
    /// A user, who may change their own account.
    Owner,
    /// A user who may do it by a role alone, and must still hold it when it is done: roles may change between the check
    /// at the service's edge and the change itself.
    Holder {
        /// The user.
        user: UserId,
        /// The role, or one that includes it.
        role: Role,
    },
}

impl Actor {
    /// Whether this account, the actor's own where they need a role, may act now.
    fn check(self, own: Option<&User>) -> Result<(), Error> {
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
    /// [`Error::NoSuchUser`]; faults of the database.
    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        let row = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::user(conn, id).await?) })?;
        row.map(User::from).ok_or(Error::NoSuchUser(id))
    }

    /// The account of a normalised address, with the hash of its password.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<(User, Option<Hash>)>, Error> {
        let found = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::user_by_email(conn, email).await?) })?;
        Ok(found.map(|(row, hash)| (row.into(), hash.map(Hash::stored))))
    }

    /// The hash of an account's password.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn password_hash(&self, id: UserId) -> Result<Option<Hash>, Error> {
        let found = read!(self.db, |conn, q| -> Result<_, Error> { Ok(q::password_hash(conn, id).await?) })?;
        Ok(found.flatten().map(Hash::stored))
    }

    /// Adds an account.
    ///
    /// # Errors
    /// [`Error::NoLonger`], [`Error::EmailTaken`], [`Error::ExternalIdTaken`]; faults of the database.
    pub async fn create_user(&self, actor: Actor, user: &User, password: Option<&Hash>) -> Result<(), Error> {
        let hash = password.map(Hash::as_str);
        write!(self.db, |conn, q| -> Result<(), Error> {
            if let Actor::Holder { user, .. } = actor {
                actor.check(q::keep_user(conn, user).await?.map(User::from).as_ref())?;
            }
            Ok(q::insert_user(conn, user, hash).await?)
        })
    }

    /// Adds the first administrator; `false`, and nothing is added, where there is one.
    ///
    /// # Errors
    /// [`Error::EmailTaken`]; faults of the database.
    pub async fn create_first_admin(&self, admin: &User, password: &Hash) -> Result<bool, Error> {
        write!(self.db, |conn, q| -> Result<bool, Error> {
            if q::admin_exists(conn).await? {
                return Ok(false);
            }
            q::insert_user(conn, admin, Some(password.as_str())).await?;
            Ok(true)
        })
    }

    /// Whether any account administers souk.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn admin_exists(&self) -> Result<bool, Error> {
        read!(self.db, |conn, q| -> Result<bool, Error> { Ok(q::admin_exists(conn).await?) })
    }

    /// A page of accounts, newest first: at most `limit` that fit all terms, after the one that the last page ended
    /// with.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn list_users(&self, terms: &[Term], after: Option<Key>, limit: i64) -> Result<Scan<User, Key>, Error> {
        let found = read!(self.db, |conn, q| -> Result<Scan<_, _>, Error> {
            Ok(q::list_users(conn, terms, after, limit).await?)
        });
        found?.try_map(|row| Ok(row.into()))
    }

    /// Changes an account. `staff`: whether the caller is staff. A change without a difference keeps the etag.
    ///
    /// # Errors
    /// [`Error::NoLonger`], [`Error::NoSuchUser`], [`Error::EtagMismatch`], [`Error::Invalid`], [`Error::EmailTaken`],
    /// [`Error::ExternalIdTaken`]; faults of the database.
    pub async fn update_user(
        &self,
        actor: Actor,
        id: UserId,
        etag: &str,
        change: &Change,
        staff: bool,
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
            if change.clone().apply(&mut user, staff)? {
                user.touch(now);
                q::update_user(conn, &user).await?;
            }
            Ok(user)
        })
    }

    /// Replaces an account's roles. If they change, its sessions end.
    ///
    /// # Errors [`Error::NoLonger`], [`Error::NoSuchUser`], [`Error::EtagMismatch`], [`Error::LastAdmin`]; faults of
    /// the database.
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
    /// [`Error::NoSuchUser`], [`Error::LastAdmin`]; faults of the database.
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

    /// Replaces an account's password, if it still is the one that was checked, and ends every session.
    ///
    /// # Errors
    /// [`Error::CurrentPassword`] where it was replaced meanwhile; [`Error::NoSuchUser`]; faults of the database.
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

/// Whether this account administers souk and no other one does.
fn is_last(admins: &[User], user: &User) -> bool {
    user.is_active_admin() && !admins.iter().any(|admin| admin.id != user.id && admin.is_active_admin())
}
