//! How PostgreSQL carries out the statements that souk really sends: plans by `auto_explain`, read from its log.

use anyhow::Result;
use souk_testkit::servers::Server;

use crate::{
    floor::query,
    server_log::{Logging, entries},
};

/// One statement, carried out.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// SQL.
    pub statement: String,
    /// The plan as EXPLAIN ANALYZE prints it, a line a node and its details.
    pub lines: Vec<String>,
}

/// Plans in the order in which the statements ended.
pub struct Plans(pub Vec<Plan>);

/// Collects plans.
pub struct Watching<'s>(Logging<'s>);

impl Plans {
    /// Makes a server able to tell plans, in sessions that begin afterwards.
    ///
    /// # Errors
    /// If it has no `auto_explain`, which comes with PostgreSQL's own extensions.
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

    /// All of them for people.
    pub fn text(&self) -> String {
        let text = |plan: &Plan| format!("{}\n    {}\n", plan.statement, plan.lines.join("\n    "));
        self.0.iter().map(text).collect()
    }
}

impl Watching<'_> {
    /// What was collected.
    ///
    /// # Errors
    /// If the server does not go back to its settings.
    pub fn end(self) -> Result<Plans> {
        Ok(Plans::of(&self.0.end()?))
    }
}

/// The plan that an entry tells, where it does.
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
