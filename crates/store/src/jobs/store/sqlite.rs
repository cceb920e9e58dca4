//! What is SQLite's own: its type of a time. A write transaction has the file to itself, so there is nothing to lock.

use chrono::{DateTime, SubsecRound, Utc};
use diesel::QueryResult;

pub(super) type Conn = crate::db::sqlite::Conn;

mod schema {
    super::super::schema::tables!(TimestamptzSqlite);
}

#[path = "queries.rs"]
pub(super) mod queries;

/// Replicas on one file are on one machine, so their clock is one. To the microsecond, as it is stored.
async fn now(_: &mut Conn) -> QueryResult<DateTime<Utc>> {
    Ok(Utc::now().trunc_subsecs(6))
}

/// Keeps others from changing the rows until the transaction ends: nobody can.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
use locked;
