//! The shape all services share: what each is configured with besides its own section, and how it is built up.
//!
//! A service crate offers `DEFAULTS` (its commented default.toml), `Config::from_settings(&Settings)` and
//! `serve(config, listener, shutdown)`. Its `Config` holds a [`Common`] beside the settings of its own section.

use std::{path::PathBuf, sync::Arc};

use crate::{
    auth::{self, LONGEST_LEEWAY, ServiceTokens, Verifier},
    client::{self, AddressError, Client},
    config::{ConfigError, Settings},
    contract::{Contract, ContractError},
    error::chain,
    server,
    tls::{ClientTls, GRPC, TlsError},
    user_service::{RemoteEnded, RemoteKeys},
};

/// What every service is configured with besides its own section.
#[derive(Debug, Clone)]
pub struct Common {
    /// Folder of SQLite files.
    pub data_dir: PathBuf,
    /// Tokens.
    pub auth: auth::Config,
    /// The server stack.
    pub server: server::Config,
    /// What other services are called with.
    pub client_tls: ClientTls,
}

impl Common {
    /// From the settings' top level, `[auth]` and `[server]`.
    ///
    /// # Errors
    /// Names the setting that is wrong, and what would be right.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let unusable =
            |section: &str, error: &TlsError| settings.fault(&format!("{section}.{}", error.setting()), chain(error));
        let client_tls = ClientTls::load(&settings.section("client.tls")?);
        let common = Self {
            data_dir: settings.section("data_dir")?,
            auth: settings.section("auth")?,
            server: settings.section("server")?,
            client_tls: client_tls.map_err(|error| unusable("client.tls", &error))?,
        };
        if let Err((name, fault)) = common.server.check() {
            return Err(settings.fault(&format!("server.{name}"), fault));
        }
        common.server.tls.load(GRPC).map_err(|error| unusable("server.tls", &error))?;
        if let Err(fault) = auth::check_secret(&common.auth.internal_secret) {
            return Err(settings.fault("auth.internal_secret", fault));
        }
        if common.auth.leeway > LONGEST_LEEWAY {
            return Err(settings.fault("auth.leeway", "must be 1m or less: keys are published for as long"));
        }
        Ok(common)
    }

    /// A client of another service, in the name of this one (`order`).
    ///
    /// # Errors
    /// If the address is not one.
    pub fn client(
        &self,
        config: &client::Config,
        contract: &Arc<Contract>,
        own_name: &str,
    ) -> Result<Client, AddressError> {
        let config = self.reaching(config);
        Client::new(&config, contract, Some(ServiceTokens::new(&self.auth.internal_secret, own_name)))
    }

    fn reaching(&self, config: &client::Config) -> client::Config {
        client::Config { tls: self.client_tls.clone(), local: self.server.local.clone(), ..config.clone() }
    }

    /// Checks tokens by the keys that the user service publishes, and asks it, in the name of this service (`order`),
    /// which sessions have ended. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the user service's address is not one.
    pub fn verifier(
        &self,
        user_service: &client::Config,
        contract: &Arc<Contract>,
        own_name: &str,
    ) -> Result<Arc<Verifier>, AddressError> {
        // Anonymous: the keys are public, and asking for them must not need a token check that needs the keys.
        let config = self.reaching(user_service);
        let client = Client::new(&config, contract, None)?;
        let named = client.clone().in_the_name_of(ServiceTokens::new(&self.auth.internal_secret, own_name));
        let verifier = Verifier::new(&self.auth, Arc::new(RemoteKeys::new(client)));
        Ok(Arc::new(verifier.with_ended_sessions(Arc::new(RemoteEnded::new(named)))))
    }
}

/// What keeps a service from being put together, the same for all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The contract cannot be served.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// Another service's address is wrong.
    #[error(transparent)]
    Address(#[from] AddressError),
}
