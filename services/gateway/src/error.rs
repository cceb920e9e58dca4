//! Errors at the start of the gateway.

use souk_common::{client::AddressError, contract::ContractError, tls::TlsError};

use crate::{
    adopt::ForeignError,
    routes::{RouteError, TooLong},
    transcode::BindingError,
    upstream::UpstreamError,
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contract cannot be served.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// A route cannot be served.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The requests of a method can be longer than the limit for headers.
    #[error("{0}, or gateway.max_header_bytes a larger number")]
    TooLong(#[from] TooLong),
    /// A method cannot be called with Connect.
    #[error(transparent)]
    Connect(#[from] BindingError),
    /// A backend cannot be called.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The address of the service that publishes the token keys is missing.
    #[error("gateway.keys_from is `{0}`, and gateway.backends does not say where that is")]
    Keys(String),
    /// The address of the service that publishes the token keys is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The TLS certificate for clients is invalid.
    #[error("gateway.tls cannot be used")]
    Tls(#[from] TlsError),
    /// The foreign contract cannot be served.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// The Redis for state shared with other gateways cannot be used.
    #[error("gateway.redis_url cannot be used")]
    Redis(#[from] redis::RedisError),
    /// The reflection service cannot be built from the descriptors.
    #[error("reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
}
