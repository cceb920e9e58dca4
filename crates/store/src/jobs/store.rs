//! The table `jobs`: read by every replica, written by replicas that hold leases or have run a job.
#![allow(clippy::duplicate_mod, reason = "the queries are compiled once for each engine")]

mod postgres;
mod schema;
mod sqlite;

use chrono::{DateTime, Utc};

use super::record::Record;
use crate::db::{self, Db, DbError};

/// The database's time, and the rows of the jobs with these names, sorted by name.
pub(super) async fn read(db: &Db, names: &[&str]) -> Result<(DateTime<Utc>, Vec<Record>), DbError> {
    db::read!(db, |conn, q| -> Result<_, DbError> { Ok((q::now(conn).await?, q::read(conn, names).await?)) })
}

/// Changes the jobs of these names in one transaction that locks their rows, and writes those that `change` did change.
/// Creates missing rows. Returns what [`read`] does, as it is after the change.
pub(super) async fn change(
    db: &Db,
    names: &[&str],
    change: impl Fn(&mut Record, DateTime<Utc>) + Sync,
) -> Result<(DateTime<Utc>, Vec<Record>), DbError> {
    db::write!(db, |conn, q| -> Result<_, DbError> {
        let now = q::now(conn).await?;
        let mut records = q::lock(conn, names).await?;
        if records.len() < names.len() {
            for name in names {
                q::add(conn, name).await?;
            }
            records = q::lock(conn, names).await?;
        }
        for record in &mut records {
            let before = record.clone();
            change(record, now);
            if *record != before {
                q::write(conn, record).await?;
            }
        }
        Ok((now, records))
    })
}
