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

/// What a gateway does otherwise for a contract that is not souk's own. The default is souk's.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// What its pages say of it.
    pub about: About,
    /// What becomes of the errors of its services.
    pub errors: Errors,
    /// Request headers that reach its services.
    pub request_headers: HeaderList,
    /// Metadata of its answers that are headers for the client.
    pub response_headers: HeaderList,
    /// `authorization` is for its services to check.
    pub passes_authorization: bool,
}
