//! Sources of the public keys that verify access tokens.

use souk_proto::user::v1::{GetJsonWebKeySetRequest, session_service_client::SessionServiceClient};

use crate::client::Client;

/// A published Ed25519 key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// The key's id, as in the header of the tokens that it signs.
    pub kid: String,
    /// The public key, base64url without padding.
    pub x: String,
}

/// Gives the keys that are valid now.
#[tonic::async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The keys in use, and earlier keys whose last token has not expired.
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Asks the user service for its published keys.
pub struct RemoteKeys(Client);

impl RemoteKeys {
    /// Asks through this client.
    pub fn new(user_service: Client) -> Self {
        Self(user_service)
    }
}

#[tonic::async_trait]
impl KeySource for RemoteKeys {
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>> {
        let mut client = SessionServiceClient::new(self.0.clone());
        let set = client.get_json_web_key_set(GetJsonWebKeySetRequest {}).await?.into_inner();
        let usable = set.keys.into_iter().filter(|key| key.kty == "OKP" && key.crv == "Ed25519");
        Ok(usable.map(|key| PublishedKey { kid: key.kid, x: key.x }).collect())
    }
}
