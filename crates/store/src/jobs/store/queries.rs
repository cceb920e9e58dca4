//! The SQL, written once, compiled once per engine.

use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods, QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;

use super::{Conn, locked, schema::jobs::dsl};
use crate::jobs::record::Record;

pub(in crate::jobs) async fn now(conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    super::now(conn).await
}

pub(in crate::jobs) async fn read(conn: &mut Conn, names: &[&str]) -> QueryResult<Vec<Record>> {
    dsl::jobs.filter(dsl::name.eq_any(names)).order(dsl::name).load(conn).await
}

/// Like [`read`], but locks the rows for a change. The order is always the same, so that replicas do not deadlock.
pub(in crate::jobs) async fn lock(conn: &mut Conn, names: &[&str]) -> QueryResult<Vec<Record>> {
    locked!(dsl::jobs.filter(dsl::name.eq_any(names)).order(dsl::name)).load(conn).await
}

/// Creates a row, if there is none.
pub(in crate::jobs) async fn add(conn: &mut Conn, name: &str) -> QueryResult<usize> {
    diesel::insert_into(dsl::jobs).values(dsl::name.eq(name)).on_conflict(dsl::name).do_nothing().execute(conn).await
}

pub(in crate::jobs) async fn write(conn: &mut Conn, record: &Record) -> QueryResult<usize> {
    diesel::update(dsl::jobs.find(&record.name))
        .set((
            dsl::holder.eq(&record.holder),
            dsl::lease_until.eq(record.lease_until),
            dsl::triggered_at.eq(record.triggered_at),
            dsl::last_run_at.eq(record.last_run_at),
            dsl::last_success_at.eq(record.last_success_at),
            dsl::last_duration_ms.eq(record.last_duration_ms),
            dsl::last_error.eq(&record.last_error),
            dsl::runs.eq(record.runs),
            dsl::failures.eq(record.failures),
            dsl::items.eq(record.items),
        ))
        .execute(conn)
        .await
}
