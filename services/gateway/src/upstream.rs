//! The backends: one client for each, found by the name of the service.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, Bytes};
use prost::Message;
use prost_reflect::DynamicMessage;
use souk_common::{
    auth::ServiceTokens,
    client::{AddressError, Client},
    contract::{Contract, Method},
    error::Problem,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::config::Config;

/// Clients of all backends.
#[derive(Clone)]
pub struct Upstreams {
    /// The backends by the full name of the service.
    services: BTreeMap<Arc<str>, Upstream>,
}

/// A backend with its clients.
#[derive(Clone)]
pub struct Upstream {
    /// The configured name of the backend.
    pub name: String,
    /// The client for calls of clients. It forwards the caller's deadline, request id and trace, and adds no token.
    pub client: Client,
    /// The client for the gateway's own calls, with the gateway's own token.
    own: Client,
}

/// Why a backend cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Services of the contract that have no configured address.
    #[error("gateway.backends says nothing of {}: set the address of each one, or of its package", .0.join(", "))]
    Missing(Vec<Arc<str>>),
    /// An address is invalid.
    #[error("gateway.backends.{name}: {source}")]
    Address {
        /// Name of the backend.
        name: String,
        /// What is wrong with the address.
        #[source]
        source: AddressError,
    },
}

impl Upstreams {
    /// Creates a client for each service of the contract. The clients start to connect.
    ///
    /// # Errors
    /// An address is missing or invalid.
    pub fn new(config: &Config, contract: &Arc<Contract>) -> Result<Self, UpstreamError> {
        let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
        let tokens = ServiceTokens::new(&config.common.auth.internal_secret, "gateway");
        for (name, address) in config.settings.backends.iter() {
            let client = Client::new(&config.client(address), contract, None)
                .map_err(|source| UpstreamError::Address { name: name.to_owned(), source })?;
            clients.insert(name, client);
        }
        let mut services = BTreeMap::new();
        let mut missing = Vec::new();
        for method in contract.methods() {
            if services.contains_key(&method.service) || missing.contains(&method.service) {
                continue;
            }
            let backend = config.settings.backends.of(&method.service);
            match backend.and_then(|(name, _)| Some((name, clients.get(name)?))) {
                Some((name, client)) => {
                    let own = client.clone().in_the_name_of(tokens.clone());
                    let upstream = Upstream { name: name.to_owned(), client: client.clone(), own };
                    services.insert(method.service.clone(), upstream);
                }
                None => missing.push(method.service.clone()),
            }
        }
        if missing.is_empty() { Ok(Self { services }) } else { Err(UpstreamError::Missing(missing)) }
    }

    /// The backend of a service.
    pub fn of(&self, service: &str) -> Option<&Upstream> {
        self.services.get(service)
    }

    /// A client that calls the service of a method with the gateway's own token.
    pub fn own(&self, method: &Method) -> Option<Client> {
        Some(self.of(&method.service)?.own.clone())
    }

    /// All backends, each of them once.
    pub fn all(&self) -> Vec<Upstream> {
        let by_name: BTreeMap<_, _> =
            self.services.values().map(|upstream| (upstream.name.clone(), upstream)).collect();
        by_name.into_values().cloned().collect()
    }

    /// Full names of all services that are served.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(|name| &**name)
    }
}

/// The codec for requests whose message was built here. It encodes the request and returns the encoded response without
/// decoding it.
pub struct Onward;

impl Codec for Onward {
    type Encode = DynamicMessage;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Onward {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Problem::internal().caused_by(error).into())
    }
}

impl Decoder for Onward {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
