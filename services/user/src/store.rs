//! The user service's database: one function per operation. All SQL is below this module.

mod keys;
mod postgres;
mod rows;
mod schema;
mod sessions;
mod sqlite;
mod users;

use std::path::Path;

use diesel_migrations::embed_migrations;
use souk_store::db::{Config, Db, DbError, EmbeddedMigrations, Migrations};

pub use self::{
    sessions::{Exchange, Opened, Opening},
    users::Actor,
};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The service's database. A clone is another handle.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
}

impl Store {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// If the settings are wrong, the database cannot be reached, or a migration fails.
    pub async fn open(config: &Config, data_dir: &Path) -> Result<Self, DbError> {
        let migrations = Migrations { postgres: POSTGRES, sqlite: SQLITE };
        let db = Db::connect(config, data_dir, "user", migrations).await?;
        for migration in db.migrate().await? {
            tracing::info!(migration, "migrated");
        }
        Ok(Self { db })
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }
}
