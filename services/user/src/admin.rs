//! Operations of the command line, without a server: migrate, create administrators, rotate keys, disable accounts.

use std::fmt;

use rand::distr::{Alphanumeric, SampleString};
use souk_common::{auth::Role, ids::UserId};
use souk_store::db::{Db, DbError};

use crate::{
    config::Config,
    domain::{
        email::Email,
        now,
        password::Password,
        user::{State, User},
    },
    error::Error,
    hasher::Hasher,
    store::{self, users::Actor},
    tokens,
};

/// An administrator that was made.
pub struct Created {
    /// The account.
    pub user: UserId,
    /// The password, if it was generated here: it is stored nowhere else.
    pub password: Option<String>,
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Created").field("user", &self.user).finish_non_exhaustive()
    }
}

/// 24 letters and digits: 142 bits.
const GENERATED_LEN: usize = 24;

/// Brings the database's schema up to date.
///
/// # Errors
/// If the database cannot be reached or a migration fails.
pub async fn migrate(config: &Config) -> Result<(), DbError> {
    store::open(&config.settings.database, &config.common.data_dir).await?.close();
    Ok(())
}

/// Creates an administrator. Without a password, one is generated.
///
/// # Errors
/// [`Error::Invalid`], [`Error::EmailTaken`]; faults of the database.
pub async fn create_admin(config: &Config, email: &str, password: Option<String>) -> Result<Created, Error> {
    let user = admin(email)?;
    let generated = password.is_none().then(generate);
    let hash = hasher(config)?.hash(chosen(password.or_else(|| generated.clone()).unwrap_or_default())?).await?;
    let db = open(config).await?;
    store::users::insert(&db, Actor::Operator, &user, Some(&hash)).await?;
    db.close();
    Ok(Created { user: user.id, password: generated })
}

/// Creates the first administrator with a generated password, and returns both. `None` if there is an administrator
/// already.
///
/// # Errors
/// [`Error::Invalid`], [`Error::EmailTaken`]; faults of the database.
pub async fn ensure_admin(config: &Config, email: &str) -> Result<Option<String>, Error> {
    let user = admin(email)?;
    let db = open(config).await?;
    if store::users::admin_exists(&db).await? {
        return Ok(None);
    }
    let password = generate();
    let hash = hasher(config)?.hash(chosen(password.clone())?).await?;
    let made = match store::users::insert_first_admin(&db, &user, &hash).await {
        // Another replica of the program made the same one in this moment.
        Err(Error::EmailTaken) if store::users::admin_exists(&db).await? => false,
        made => made?,
    };
    db.close();
    Ok(made.then_some(password))
}

/// Enables or disables the account of an email, and returns its id. A disabled account's sessions end, and its
/// access tokens are refused within 2 seconds. `None` if nobody has this email.
///
/// # Errors
/// [`Error::LastAdmin`]; faults of the database.
pub async fn set_state(config: &Config, email: &str, state: State) -> Result<Option<UserId>, Error> {
    let Ok(email) = Email::parse(email) else { return Ok(None) };
    let db = open(config).await?;
    let Some((user, _)) = store::users::by_email(&db, email.as_str()).await? else { return Ok(None) };
    store::users::set_state(&db, user.id, state, now()).await?;
    db.close();
    Ok(Some(user.id))
}

/// Creates a new signing key, and returns its id. It signs a few seconds later, see [`tokens::rotate_key`].
///
/// # Errors
/// Faults of the database; no randomness to be had.
pub async fn rotate_key(config: &Config) -> Result<String, Error> {
    let db = open(config).await?;
    let now = now();
    // In a fresh database the first key is the new one; it is not older than now.
    tokens::ensure_key(&db).await?;
    let kid = match tokens::rotate_key(&db, now, now).await? {
        Some(kid) => kid,
        None => store::keys::all(&db).await?.into_iter().next().ok_or(Error::NoSigningKey)?.kid,
    };
    db.close();
    Ok(kid)
}

async fn open(config: &Config) -> Result<Db, Error> {
    Ok(store::open(&config.settings.database, &config.common.data_dir).await?)
}

fn hasher(config: &Config) -> Result<Hasher, Error> {
    Ok(Hasher::new(config.settings.hashing.cost()?))
}

fn admin(email: &str) -> Result<User, Error> {
    let email =
        Email::parse(email).map_err(|error| Error::Invalid { path: "email".into(), description: error.to_string() })?;
    let mut user = User::new(email, String::new(), String::new(), now());
    user.roles = [Role::Admin].into_iter().collect();
    Ok(user)
}

fn chosen(password: String) -> Result<Password, Error> {
    Password::chosen(password)
        .map_err(|error| Error::Invalid { path: "password".into(), description: error.to_string() })
}

fn generate() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), GENERATED_LEN)
}
