//! For `souk verify`: checks of the promises on live data, and the reservations to compare with orders.

use std::collections::HashMap;

use souk_common::ids::OrderId;
use souk_store::{
    db::{self, Db},
    verify::Check,
};

use super::{Store, postgres, sqlite};
use crate::{config::Config, error::Error};

/// Checks all promises in one snapshot.
///
/// # Errors
/// If the database fails. A broken promise is not an error but a [`Check`] that does not hold.
pub async fn verify(db: &Db) -> Result<Vec<Check>, Error> {
    db::snapshot!(db, |conn, q| -> Result<Vec<Check>, Error> { q::verify::all(conn).await })
}

/// An order's reservation, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// `OPEN`, `COMMITTED`, `RELEASED` or `EXPIRED`.
    pub state: String,
    /// Pieces of all lines.
    pub pieces: i64,
    /// Pieces that were returned.
    pub returned: i64,
}

/// The reservations of a live database.
#[derive(Debug)]
pub struct Reservations(Db);

impl Reservations {
    /// Opens the database without migrating it.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        Ok(Self(Store::connect(&config.settings.database, &config.common.data_dir).await?))
    }

    /// The reservations of these orders that exist.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn of(&self, orders: &[OrderId]) -> Result<HashMap<OrderId, Reserved>, Error> {
        db::snapshot!(self.0, |conn, q| -> Result<HashMap<OrderId, Reserved>, Error> {
            q::reservations::reserved(conn, orders).await
        })
    }

    /// Orders whose reservations are committed, in order of their ids, after the given one.
    ///
    /// # Errors
    /// If the database cannot be used.
    pub async fn committed_after(&self, after: Option<OrderId>, limit: i64) -> Result<Vec<OrderId>, Error> {
        db::read!(self.0, |conn, q| -> Result<Vec<OrderId>, Error> {
            q::reservations::committed_after(conn, after, limit).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use diesel::{
        prelude::*,
        sql_types::{Integer, Text},
    };
    use souk_testkit::db::{Engine, database};

    use super::*;

    #[derive(QueryableByName)]
    struct Step {
        #[diesel(sql_type = Integer)]
        parent: i32,
        #[diesel(sql_type = Text)]
        detail: String,
    }

    /// SQLite joins with nested loops. If an inner loop scans a whole table or subquery for each row of the outer one,
    /// the check takes quadratic time.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_check_scans_a_table_for_each_row_of_another_table() {
        let database = database(Engine::Sqlite, "inventory").await;
        let config = db::Config { url: database.url.clone(), ..db::Config::default() };
        Store::open(&config, Path::new(".")).await.unwrap().db().close();
        let mut conn = SqliteConnection::establish(database.url.trim_start_matches("sqlite:")).unwrap();
        for statement in sqlite::queries::verify::statements() {
            let steps: Vec<Step> =
                diesel::sql_query(format!("EXPLAIN QUERY PLAN {statement}")).load(&mut conn).unwrap();
            let mut joined = HashSet::new();
            let reads =
                steps.iter().filter(|step| step.detail.starts_with("SCAN") || step.detail.starts_with("SEARCH"));
            for Step { parent, detail } in reads {
                let is_inner = !joined.insert(parent);
                assert!(!(is_inner && detail.starts_with("SCAN")), "{statement}: {detail}");
            }
        }
    }
}
