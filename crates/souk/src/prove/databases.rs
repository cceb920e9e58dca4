//! The run's own databases on a PostgreSQL server.

use anyhow::Context;
use souk_store::db::{Config, postgres};

use crate::settings::{self, STORES};

/// A database for each service that stores data.
pub struct Databases {
    server: String,
    run: String,
}

impl Databases {
    /// Creates the databases. The user of the URL must be allowed to.
    pub async fn create(server: &str, run: &str) -> anyhow::Result<Self> {
        let databases = Self { server: server.to_owned(), run: run.replace('-', "_") };
        databases.each("CREATE DATABASE").await.context("databases for the run cannot be made")?;
        Ok(databases)
    }

    /// The URL of a service's database.
    pub fn url(&self, service: &str) -> anyhow::Result<String> {
        settings::database_url(&self.server, &self.name(service))
    }

    /// The names of the databases, for people.
    pub fn names(&self) -> String {
        STORES.map(|service| self.name(service)).join(", ")
    }

    /// Drops the databases.
    pub async fn drop(&self) -> anyhow::Result<()> {
        self.each("DROP DATABASE").await.context("the run's databases cannot be removed")
    }

    fn name(&self, service: &str) -> String {
        format!("souk_prove_{}_{service}", self.run)
    }

    async fn each(&self, what: &str) -> anyhow::Result<()> {
        let url = settings::database_url(&self.server, "postgres")?;
        let statements = STORES.map(|service| format!("{what} {}", self.name(service)));
        Ok(postgres::execute(&Config::at(url), &statements).await?)
    }
}
