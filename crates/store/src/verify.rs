//! The results of checks of a live database, made by each service's `verify` and printed by `souk
//! verify`.

/// An invariant that was checked on live data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The invariant, in words: "stock equals the sum of its ledger".
    pub name: &'static str,
    /// Number of rows that were checked.
    pub counted: i64,
    /// Rows that violate the invariant, a line of text each; cut off after [`LIMIT`].
    pub broken: Vec<String>,
}

impl Check {
    /// True if the invariant holds.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// The most violating rows that a check lists.
pub const LIMIT: i64 = 20;
