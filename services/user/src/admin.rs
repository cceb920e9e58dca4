//! Operations of the command line, which need no running server: create administrators, rotate keys, disable accounts.

use std::fmt;

use rand::distr::{Alphanumeric, SampleString};
use souk_common::{auth::Role, ids::UserId};

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
    store::{Actor, Store},
};

/// The result of the creation of an administrator.
pub struct Created {
    /// The account.
    pub user: UserId,
    /// The password, if it was generated here. It is stored nowhere else.
    pub password: Option<String>,
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Created").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The length of a generated password: 24 letters and digits, which have 142 bits.
const GENERATED_LEN: usize = 24;

/// Creates an administrator. Without a password, one is generated.
///
/// # Errors
/// [`Error::Invalid`], [`Error::EmailTaken`]. Also if the database fails.
pub async fn create_admin(config: &Config, email: &str, password: Option<String>) -> Result<Created, Error> {
    let user = admin(email)?;
    let generated = password.is_none().then(generate);
    let hash = hasher(config)?.hash(chosen(password.or_else(|| generated.clone()).unwrap_or_default())?).await?;
    let store = open(config).await?;
    store.create_user(Actor::Operator, &user, Some(&hash)).await?;
    store.db().close();
    Ok(Created { user: user.id, password: generated })
}

/// Creates the first administrator with a generated password, and returns the password. `None` if there is an
/// administrator already.
///
/// # Errors
/// [`Error::Invalid`], [`Error::EmailTaken`]. Also if the database fails.
pub async fn ensure_admin(config: &Config, email: &str) -> Result<Option<String>, Error> {
    let user = admin(email)?;
    let store = open(config).await?;
    if store.admin_exists().await? {
        return Ok(None);
    }
    let password = generate();
    let hash = hasher(config)?.hash(chosen(password.clone())?).await?;
    let made = match store.create_first_admin(&user, &hash).await {
        // Another replica of the program created the same administrator at this moment.
        Err(Error::EmailTaken) if store.admin_exists().await? => false,
        made => made?,
    };
    store.db().close();
    Ok(made.then_some(password))
}

/// Enables or disables the account with this email, and returns its id. `None` if no account has this email. The
/// sessions of a disabled account end, and its access tokens are refused within 2 seconds.
///
/// # Errors
/// [`Error::LastAdmin`]. Also if the database fails.
pub async fn set_state(config: &Config, email: &str, state: State) -> Result<Option<UserId>, Error> {
    let Ok(email) = Email::parse(email) else { return Ok(None) };
    let store = open(config).await?;
    let Some((user, _)) = store.user_by_email(email.as_str()).await? else { return Ok(None) };
    store.set_state(user.id, state, now()).await?;
    store.db().close();
    Ok(Some(user.id))
}

/// Creates a new signing key, and returns its id. It signs a few seconds later, see [`Store::rotate_key`].
///
/// # Errors
/// If the database fails, or the system has no randomness.
pub async fn rotate_key(config: &Config) -> Result<String, Error> {
    let store = open(config).await?;
    let now = now();
    // In a new database, this creates the first key. It is not older than `now`, so it is not rotated.
    store.ensure_key().await?;
    let kid = match store.rotate_key(now, now).await? {
        Some(kid) => kid,
        None => store.keys().await?.into_iter().next().ok_or(Error::NoSigningKey)?.kid,
    };
    store.db().close();
    Ok(kid)
}

async fn open(config: &Config) -> Result<Store, Error> {
    Ok(Store::open(&config.settings.database, &config.common.data_dir).await?)
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
