//! The query plans of the statements that souk really sends. `auto_explain` writes them to PostgreSQL's log.

use anyhow::Result;
use souk_testkit::servers::Server;

use crate::{
    floor::query,
    server_log::{Logging, entries},
};

/// A statement that was executed, and its plan.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The SQL.
    pub statement: String,
    /// The plan as EXPLAIN ANALYZE prints it: lines for each node and its details.
    pub lines: Vec<String>,
}

/// Plans, in the order in which their statements ended.
pub struct Plans(pub Vec<Plan>);

/// Collects plans.
pub struct Watching<'s>(Logging<'s>);

impl Plans {
    /// Loads `auto_explain` into sessions that begin afterwards.
    ///
    /// # Errors
    /// If the server has no `auto_explain`, which is one of PostgreSQL's own extensions.
    pub fn prepare(server: &Server) -> Result<()> {
        query(server, "postgres", "LOAD 'auto_explain'")?;
        query(server, "postgres", "ALTER ROLE postgres SET session_preload_libraries = 'auto_explain'")?;
        Ok(())
    }

    /// Collects the plans of all sessions from now on.
    ///
    /// # Errors
    /// If the server was not prepared.
    pub fn watch(server: &Server) -> Result<Watching<'_>> {
        let settings = [("auto_explain.log_analyze", "on"), ("auto_explain.log_min_duration", "0")];
        Ok(Watching(Logging::begin(server, &settings)?))
    }

    fn of(log: &str) -> Self {
        let souk = entries(log).into_iter().filter(|entry| entry.database != "postgres");
        Self(souk.filter_map(|entry| plan(&entry.lines)).collect())
    }

    /// All plans as text for people.
    pub fn text(&self) -> String {
        let text = |plan: &Plan| format!("{}\n    {}\n", plan.statement, plan.lines.join("\n    "));
        self.0.iter().map(text).collect()
    }
}

impl Watching<'_> {
    /// Stops collecting and returns the plans.
    ///
    /// # Errors
    /// If the settings of the server cannot be restored.
    pub fn end(self) -> Result<Plans> {
        Ok(Plans::of(&self.0.end()?))
    }
}

/// The plan in an entry of the log, if it has one.
fn plan(lines: &[&str]) -> Option<Plan> {
    let (first, lines) = lines.split_first()?;
    if !first.starts_with("duration: ") || !first.ends_with("plan:") {
        return None;
    }
    let from = lines.iter().position(|line| line.contains("  (cost="))?;
    let (statement, lines) = lines.split_at(from);
    let words = statement.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
    let statement = words.trim_start_matches("Query Text: ").to_owned();
    Some(Plan { statement, lines: lines.iter().map(|line| (*line).to_owned()).collect() })
}

#[cfg(test)]
mod tests;
