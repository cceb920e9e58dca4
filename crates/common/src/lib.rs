//!
pub mod error;
pub mod jobs;
