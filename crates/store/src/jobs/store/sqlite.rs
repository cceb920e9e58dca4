//! The SQLite part: its type of a time. A write transaction locks the whole file, so rows need no locks.

use chrono::{DateTime, SubsecRound, Utc};
use diesel::QueryResult;

pub(super) type Conn = crate::db::sqlite::Conn;

mod schema {
    super::super::schema::tables!(TimestamptzSqlite);
}

#[path = "queries.rs"]
pub(super) mod queries;

/// Replicas on one file are on one machine, so they share a clock. Truncated to the microsecond, as it is stored.
async fn now(_: &mut Conn) -> QueryResult<DateTime<Utc>> {
    Ok(Utc::now().trunc_subsecs(6))
}

/// Locks the rows of a query until the transaction ends. SQLite has locked the whole file already.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
use locked;
