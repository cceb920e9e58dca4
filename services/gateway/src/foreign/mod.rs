//! Contracts that were not written for souk: their settings, and how the gateway handles their calls.

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
    /// Title, version and description for the OpenAPI document and the index.
    pub about: About,
    /// How errors of the services are reported.
    pub errors: Errors,
    /// Request headers that are forwarded to the services.
    pub request_headers: HeaderList,
    /// Response metadata of the services that clients get as headers.
    pub response_headers: HeaderList,
    /// True if the header `authorization` is forwarded for the services to check.
    pub passes_authorization: bool,
}
