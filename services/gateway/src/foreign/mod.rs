//! Contracts that were not written for souk: what settings say of one, and how the gateway treats its calls.

mod errors;
mod headers;
mod settings;

pub use self::{
    errors::Errors,
    headers::HeaderList,
    settings::{Access, Settings, fits},
};
use crate::openapi::About;

/// Differences in the gateway for a foreign contract. The default is souk's own contract.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// What its pages say of it.
    pub about: About,
    /// The handling of its services' errors.
    pub errors: Errors,
    /// Request headers that reach its services.
    pub request_headers: HeaderList,
    /// Metadata of its answers that are headers for the client.
    pub response_headers: HeaderList,
    /// `authorization` is for its services to check.
    pub passes_authorization: bool,
}
