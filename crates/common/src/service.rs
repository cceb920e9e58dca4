//! The parts that all services share: the common settings, and the setup of clients and verifiers.
//!
//! A service crate offers `DEFAULTS` (its commented default.toml), `Config::from_settings(&Settings)` and
//! `serve(config, listener, shutdown)`. Its `Config` contains a [`Common`] and the settings of its own section.

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

/// The settings of every service outside of its own section.
#[derive(Debug, Clone)]
pub struct Common {
    /// The folder of SQLite files.
    pub data_dir: PathBuf,
    /// The settings of authentication.
    pub auth: auth::Config,
    /// The settings of the server.
    pub server: server::Config,
    /// TLS for calls to other services.
    pub client_tls: ClientTls,
}

impl Common {
    /// Reads the top-level settings and the shared sections, such as `[auth]` and `[server]`.
    ///
    /// # Errors
    /// Names the wrong setting and what would be right.
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

    /// Creates a client of another service. It authenticates as `own_name`, the name of this service (`order`).
    ///
    /// # Errors
    /// If the address is invalid.
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

    /// Creates a verifier. It checks tokens with the keys that the user service publishes, and gets the list of ended
    /// sessions from the user service, where it authenticates as this service (`order`). Must be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the user service's address is invalid.
    pub fn verifier(
        &self,
        user_service: &client::Config,
        contract: &Arc<Contract>,
        own_name: &str,
    ) -> Result<Arc<Verifier>, AddressError> {
        // The keys are read anonymously: they are public, and the user service could not check a token without the
        // keys.
        let config = self.reaching(user_service);
        let client = Client::new(&config, contract, None)?;
        let named = client.clone().in_the_name_of(ServiceTokens::new(&self.auth.internal_secret, own_name));
        let verifier = Verifier::new(&self.auth, Arc::new(RemoteKeys::new(client)));
        Ok(Arc::new(verifier.with_ended_sessions(Arc::new(RemoteEnded::new(named)))))
    }
}

/// The reasons why a service cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The contract is invalid.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// Another service's address is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
}
