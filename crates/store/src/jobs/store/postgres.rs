//! The PostgreSQL part: its type of a time, its clock, row locks.

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel_async::RunQueryDsl;

pub(super) type Conn = crate::db::postgres::Conn;

mod schema {
    super::super::schema::tables!(Timestamptz);
}

#[path = "queries.rs"]
pub(super) mod queries;

/// The server's clock, which all replicas share.
async fn now(conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    let now = diesel::dsl::sql::<diesel::sql_types::Timestamptz>("clock_timestamp()");
    diesel::select(now).get_result(conn).await
}

/// Locks the rows of a query until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}
use locked;
