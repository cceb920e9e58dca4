//! The parts of a gateway.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use souk_common::{
    auth::Verifier,
    contract::Contract,
    quota::Quota,
    tls::{Acceptor, HTTP},
};

use crate::{
    admission::Admission,
    adopt, body,
    cache::Cache,
    config::Config,
    cors::Cors,
    error::ServeError,
    foreign::Api,
    health::Readiness,
    limits::Limits,
    own::{self, Own},
    routes::{self, Routes},
    shared::Shared,
    streams::Streams,
    transcode::lenient::Leniency,
    upstream::Upstreams,
};

/// The gateway of one contract.
pub struct Gateway {
    pub(crate) config: Config,
    pub(crate) contract: Arc<Contract>,
    pub(crate) routes: Routes,
    pub(crate) upstreams: Upstreams,
    pub(crate) readiness: Readiness,
    pub(crate) own: Own,
    pub(crate) openapi: OnceLock<Bytes>,
    pub(crate) cache: Option<Arc<Cache>>,
    /// State that is shared with other gateways.
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) limits: Limits,
    pub(crate) bodies: Arc<Quota>,
    pub(crate) admission: Admission,
    pub(crate) streams: Streams,
    pub(crate) connect: routes::Bindings,
    /// Checks tokens. `None`: the gateway checks none. The services check them, or nobody does.
    pub(crate) verifier: Option<Arc<Verifier>>,
    pub(crate) api: Arc<Api>,
    pub(crate) cors: Option<Cors>,
    pub(crate) tls: Option<Acceptor>,
}

impl Gateway {
    /// Creates the gateway of a contract. `descriptors` is the encoded descriptor set of the contract, for reflection.
    ///
    /// # Errors
    /// A route or the address of a service is missing, in conflict or invalid.
    pub fn new(
        config: Config,
        contract: Arc<Contract>,
        descriptors: &[u8],
        verifier: Arc<Verifier>,
    ) -> Result<Self, ServeError> {
        let routes = Routes::of(&contract)?;
        let (leniency, verifier, api) = (Leniency::default(), Some(verifier), Api::default());
        Self::of(config, adopt::Parts { contract, descriptors: descriptors.into(), routes, leniency, verifier, api })
    }

    /// Creates the gateway of any contract, souk's or a foreign one.
    pub(crate) fn of(config: Config, parts: adopt::Parts<'_>) -> Result<Self, ServeError> {
        let adopt::Parts { contract, descriptors, routes, leniency, verifier, api } = parts;
        let upstreams = Upstreams::new(&config, &contract)?;
        let served: Vec<&str> = upstreams.services().collect();
        contract.require_access(&served)?;
        let readiness = Readiness::new(&upstreams, config.settings.ready_timeout, config.common.server.stop.clone());
        let own = own::own(&descriptors, &served, readiness.clone())?;
        let connect = routes::bindings(&contract, leniency)?;
        let admission = Admission::new(
            config.common.server.max_concurrent_requests,
            config.settings.max_concurrent_per_caller,
            config.settings.queue_timeout,
        );
        let tls = config.settings.tls.load(HTTP)?;
        let shared = config.settings.shared()?;
        Ok(Self {
            streams: Streams::new(&config.settings.stream),
            bodies: body::quota(&config.settings.body),
            limits: Limits::new(config.settings.rate_limits, shared.clone()),
            cache: Cache::new(&contract, &config.settings.cache, shared.clone()).map(Arc::new),
            cors: Cors::of(&config.settings.cors, &config.settings.contract),
            openapi: OnceLock::new(),
            config,
            contract,
            routes,
            upstreams,
            readiness,
            own,
            shared,
            admission,
            connect,
            verifier,
            api: Arc::new(api),
            tls,
        })
    }
}
