//! The results of checks of a live database, made by each service's `verify` and printed by `souk
//! verify`.

/// A promise that was checked on live data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The promise, in words: "stock equals the sum of its ledger".
    pub name: &'static str,
    /// Rows that were looked at.
    pub counted: i64,
    /// Rows that break the promise, a line of words each; cut off after [`LIMIT`].
    pub broken: Vec<String>,
}

impl Check {
    /// Whether the promise holds.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// The most offending rows that a check lists.
pub const LIMIT: i64 = 20;
