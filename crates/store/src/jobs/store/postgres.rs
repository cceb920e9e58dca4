//! What is PostgreSQL's own: its type of a time, its clock, row locks.

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel_async::RunQueryDsl;

pub(super) type Conn = crate::db::postgres::Conn;

mod schema {
    super::super::schema::tables!(Timestamptz);
}

#[path = "queries.rs"]
pub(super) mod queries;

/// The server's clock: one for all replicas, however wrong their own are.
async fn now(conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    let now = diesel::dsl::sql::<diesel::sql_types::Timestamptz>("clock_timestamp()");
    diesel::select(now).get_result(conn).await
}

/// Keeps other replicas from changing the rows until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}
use locked;
