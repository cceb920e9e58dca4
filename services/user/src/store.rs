//! The store: one function an operation, on either engine.

pub mod keys;
mod postgres;
mod rows;
mod schema;
pub mod sessions;
mod sqlite;
pub mod users;

use std::path::Path;

use diesel_migrations::embed_migrations;
use souk_store::db::{Config, Db, DbError, EmbeddedMigrations, Migrations};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Opens the database and brings its schema up to date.
///
/// # Errors
/// If the settings are wrong, the database cannot be reached, or a migration fails.
pub async fn open(config: &Config, data_dir: &Path) -> Result<Db, DbError> {
    let migrations = Migrations { postgres: POSTGRES, sqlite: SQLITE };
    let db = Db::connect(config, data_dir, "user", migrations).await?;
    for migration in db.migrate().await? {
        tracing::info!(migration, "migrated");
    }
    Ok(db)
}
