//! Locations that hold stock.

use chrono::{DateTime, Utc};
use souk_common::ids::LocationId;

/// A location that holds stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The location's id.
    pub id: LocationId,
    /// The merchant's short code, as given.
    pub code: String,
    /// The name that users see.
    pub display_name: String,
    /// The priority. Orders are filled from the location with the lowest number first.
    pub priority: i32,
    /// When the location was created.
    pub created_at: DateTime<Utc>,
}
