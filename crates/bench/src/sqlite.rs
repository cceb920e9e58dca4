//! The SQLite files of a souk, as another process reads and fills them.

use std::path::Path;

use anyhow::{Context, Result};
use diesel::{
    Connection, QueryableByName, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query,
    sql_types::Text,
};

/// A step of a query plan.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Step {
    /// What is read, and how: `SEARCH orders USING INDEX orders_due (due_at<?)`.
    #[diesel(sql_type = Text)]
    pub detail: String,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    text: String,
}

/// Runs statements in one transaction.
///
/// # Errors
/// If one of them fails.
pub fn run(file: &Path, statements: &str) -> Result<()> {
    let mut conn = open(file)?;
    conn.immediate_transaction(|conn| conn.batch_execute(statements))?;
    Ok(())
}

/// The column `text` of a query.
///
/// # Errors
/// If the query fails.
pub fn texts(file: &Path, query: &str) -> Result<Vec<String>> {
    let rows: Vec<Row> = sql_query(query).load(&mut open(file)?).with_context(|| query.to_owned())?;
    Ok(rows.into_iter().map(|row| row.text).collect())
}

/// The plan of a statement, whatever its values are.
#[cfg(test)]
///
/// # Errors
/// If the statement is not one of this file.
pub fn plan(file: &Path, statement: &str) -> Result<Vec<Step>> {
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    sql_query(explain).load(&mut open(file)?).with_context(|| statement.to_owned())
}

fn open(file: &Path) -> Result<SqliteConnection> {
    let mut conn = SqliteConnection::establish(&file.display().to_string())?;
    // A souk writes to the same file.
    conn.batch_execute("PRAGMA busy_timeout = 60000")?;
    Ok(conn)
}
