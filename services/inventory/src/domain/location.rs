//! Places where stock lies.

use chrono::{DateTime, Utc};
use souk_common::ids::LocationId;

/// A place where stock lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// The merchant's short code, as given.
    pub code: String,
    /// What to call it.
    pub display_name: String,
    /// Orders are filled from the lowest number first.
    pub priority: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
