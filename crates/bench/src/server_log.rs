//! Reads the log of a PostgreSQL: the statements that it received, and how it executed them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use souk_testkit::servers::Server;

use crate::floor::query;

/// How long the server may take to reload its settings.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The prefix of each entry: process and database.
const PREFIX: &str = "%p %d ";

/// An entry of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'l> {
    /// The server process. Each connection has one.
    pub process: &'l str,
    /// The database.
    pub database: &'l str,
    /// The lines of the entry.
    pub lines: Vec<&'l str>,
}

/// The log from a start time, with additional settings for logging.
pub struct Logging<'s> {
    server: &'s Server,
    from: usize,
}

impl<'s> Logging<'s> {
    /// Begins to log with these settings in every session.
    ///
    /// # Errors
    /// If the settings are invalid.
    pub fn begin(server: &'s Server, settings: &[(&str, &str)]) -> Result<Self> {
        let settings = || settings.iter().copied().chain([("log_line_prefix", PREFIX)]);
        for (name, value) in settings() {
            query(server, "postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        }
        query(server, "postgres", "SELECT pg_reload_conf()")?;
        let asked = Instant::now();
        // A new session with these settings proves that all other sessions have been notified.
        for (name, value) in settings() {
            while query(server, "postgres", &format!("SELECT current_setting('{name}')"))? != value.trim() {
                ensure!(asked.elapsed() < TIMEOUT, "{name} did not become {value:?}");
            }
        }
        Ok(Self { server, from: server.log().len() })
    }

    /// The log so far.
    pub fn so_far(&self) -> String {
        self.server.log().split_off(self.from)
    }

    /// Returns the log and restores the settings.
    ///
    /// # Errors
    /// If the settings cannot be restored.
    pub fn end(self) -> Result<String> {
        let log = self.so_far();
        query(self.server, "postgres", "ALTER SYSTEM RESET ALL")?;
        query(self.server, "postgres", "SELECT pg_reload_conf()")?;
        Ok(log)
    }
}

/// The entries of a log, only their messages.
pub fn entries(log: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    // True if continuation lines belong to the last entry, not to a detail after it.
    let mut of_last = false;
    for line in log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(entry) = entries.last_mut().filter(|_| of_last) {
                entry.lines.push(more);
            }
            continue;
        }
        let head = line.split_once("LOG:  ").and_then(|(head, text)| Some((head.split_once(' ')?, text)));
        of_last = head.is_some();
        if let Some(((process, database), text)) = head {
            entries.push(Entry { process, database: database.trim(), lines: vec![text] });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::{Entry, entries};

    #[test]
    fn entries_are_distinguished() {
        let log =
            "12 a_b LOG:  statement: SELECT\n\t1\n12 a_b DETAIL:  parameters: $1 = 'x\n\ty'\n7  LOG:  checkpoint\n";
        let expected = [
            Entry { process: "12", database: "a_b", lines: vec!["statement: SELECT", "1"] },
            Entry { process: "7", database: "", lines: vec!["checkpoint"] },
        ];
        assert_eq!(entries(log), expected);
    }
}
