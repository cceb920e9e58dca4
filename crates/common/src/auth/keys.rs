//! Sources of the public keys that verify access tokens.

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
