//! A small store, laid out as in the services.

pub mod postgres;
pub mod sqlite;

use chrono::{DateTime, Utc};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use souk_common::ids::UserId;
use souk_common::money::Currency;
use souk_store::db::{self, Db, DbError, Failure, Migrations};

pub fn migrations() -> Migrations {
    const POSTGRES: EmbeddedMigrations = embed_migrations!("tests/db/migrations/postgres");
    const SQLITE: EmbeddedMigrations = embed_migrations!("tests/db/migrations/sqlite");
    Migrations { postgres: POSTGRES, sqlite: SQLITE }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: UserId,
    pub email: String,
    pub balance: i64,
    pub currency: Currency,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the email belongs to another account")]
    EmailTaken,
    #[error("no such account")]
    NotFound,
    #[error("the account holds no more than {0}")]
    TooLittle(i64),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        match DbError::from(error) {
            error if matches!(error.unique_violation(), Some("accounts_email_key" | "accounts.email")) => {
                Self::EmailTaken
            }
            error => Self::Db(error),
        }
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

pub async fn create(db: &Db, account: &Account) -> Result<Account, Error> {
    db::write!(db, |conn, q| Ok(q::create(conn, account).await?))
}

pub async fn account(db: &Db, id: UserId) -> Result<Option<Account>, Error> {
    db::read!(db, |conn, q| Ok(q::account(conn, id).await?))
}

/// Withdraws an amount and records it. It reads, decides and writes, so it would lose updates without protection.
pub async fn withdraw(db: &Db, id: UserId, amount: i64) -> Result<i64, Error> {
    db::write!(db, |conn, q| {
        let account = q::account(conn, id).await?.ok_or(Error::NotFound)?;
        if account.balance < amount {
            return Err(Error::TooLittle(account.balance));
        }
        let number = q::last_number(conn, id).await? + 1;
        q::set_balance(conn, id, account.balance - amount).await?;
        q::add_entries(conn, id, vec![(number, -amount)]).await?;
        Ok(account.balance - amount)
    })
}

pub async fn entries(db: &Db, id: UserId) -> Result<Vec<(i32, i64)>, Error> {
    db::read!(db, |conn, q| Ok(q::entries(conn, id).await?))
}

pub async fn emails(db: &Db, among: &[String]) -> Result<Vec<String>, Error> {
    db::read!(db, |conn, q| Ok(q::emails(conn, among).await?))
}
