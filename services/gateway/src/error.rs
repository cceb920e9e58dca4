//! Why a gateway cannot be put together.

use souk_common::{client::AddressError, contract::ContractError, tls::TlsError};

use crate::{
    adopt::ForeignError,
    routes::{RouteError, TooLong},
    transcode::BindingError,
    upstream::UpstreamError,
};

/// Errors at the start of the gateway.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contract cannot be served.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// A route cannot be served.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A method accepts requests that are too long to be sent.
    #[error("{0}, or gateway.max_header_bytes a larger number")]
    TooLong(#[from] TooLong),
    /// A method cannot be called with Connect.
    #[error(transparent)]
    Connect(#[from] BindingError),
    /// A backend cannot be called.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The address of the service with the token keys is missing.
    #[error("gateway.keys_from is `{0}`, and gateway.backends does not say where that is")]
    Keys(String),
    /// The address of the service that has the keys is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The certificate towards clients cannot be used.
    #[error("gateway.tls cannot be used")]
    Tls(#[from] TlsError),
    /// A contract that is not souk's own cannot be served.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// What is shared with other gateways cannot be.
    #[error("gateway.redis_url cannot be used")]
    Redis(#[from] redis::RedisError),
    /// The descriptors cannot be offered by reflection.
    #[error("reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
}
