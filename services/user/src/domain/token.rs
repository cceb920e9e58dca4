//! Refresh tokens, and the keys that sign access tokens.

use std::fmt;

use aws_lc_rs::{
    hmac, rand,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sha2::{Digest, Sha256};
use souk_common::auth::{Claims, LONGEST_LEEWAY};

/// The system had no randomness, or a key is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed")]
pub struct TokenError {
    what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl TokenError {
    fn new<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self { what, source: source.into() }
    }
}

/// A refresh token: 256 bits in base64url that nobody can guess. Only the client has the token; the store has its hash.
#[derive(Clone)]
pub struct RefreshToken(String);

/// The salt from which, together with a token, the token's successor is derived: 256 random bits. The salt alone
/// reveals nothing.
#[derive(Clone)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// Creates a random salt.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = vec![0; 32];
        rand::fill(&mut bytes).map_err(TokenError::new("making a salt"))?;
        Ok(Self(bytes))
    }

    /// A salt from the database.
    pub fn stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes of the salt, for the database.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt([redacted])")
    }
}

impl RefreshToken {
    /// Creates a random token.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(TokenError::new("making a refresh token"))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// A token from a client. It may be invalid.
    pub fn sent(text: String) -> Self {
        Self(text)
    }

    /// The token that this one is exchanged for. The same salt gives the same successor, so that a client whose
    /// response was lost gets the same one again. The successor cannot be computed from this token without the salt,
    /// nor from the salt without this token.
    #[must_use]
    pub fn successor(&self, salt: &Salt) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(b"souk refresh token successor\0");
        context.update(self.0.as_bytes());
        Self(URL_SAFE_NO_PAD.encode(context.sign()))
    }

    /// The hash of the token, by which the store finds it.
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.as_bytes()).to_vec()
    }

    /// The text of the token, for the client.
    pub fn expose(self) -> String {
        self.0
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken([redacted])")
    }
}

/// An Ed25519 key that signs access tokens.
#[derive(Clone)]
pub struct SigningKey {
    /// The key's id: its RFC 7638 thumbprint.
    pub kid: String,
    /// The private key, in PKCS#8 DER.
    pub private_key: Vec<u8>,
    /// The public key, 32 bytes.
    pub public_key: Vec<u8>,
    /// When the key was created and first published.
    pub create_time: DateTime<Utc>,
    /// When the key begins to sign.
    pub sign_time: DateTime<Utc>,
    /// When the key stops signing; `None` for the newest one.
    pub retire_time: Option<DateTime<Utc>>,
}

impl SigningKey {
    /// Creates a key that signs from `sign_time` on.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate(now: DateTime<Utc>, sign_time: DateTime<Utc>) -> Result<Self, TokenError> {
        const WHAT: &str = "making a signing key";
        let pair = Ed25519KeyPair::generate().map_err(TokenError::new(WHAT))?;
        let private_key = pair.to_pkcs8().map_err(TokenError::new(WHAT))?.as_ref().to_vec();
        let public_key = pair.public_key().as_ref().to_vec();
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(&public_key));
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(jwk));
        Ok(Self { kid, private_key, public_key, create_time: now, sign_time, retire_time: None })
    }

    /// The public key in base64url.
    pub fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.public_key)
    }

    /// True if new tokens are signed with this key now.
    pub fn signs(&self, now: DateTime<Utc>) -> bool {
        self.sign_time <= now && self.retire_time.is_none_or(|retired| now < retired)
    }

    /// True if a token that this key signed may still be valid. `ttl` is the validity of tokens.
    pub fn is_published(&self, now: DateTime<Utc>, ttl: TimeDelta) -> bool {
        self.retire_time.is_none_or(|retired| now < retired + ttl + LEEWAY)
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// If the stored key is invalid.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let key = EncodingKey::from_ed_der(&self.private_key);
        jsonwebtoken::encode(&header, claims, &key).map_err(TokenError::new("signing an access token"))
    }
}

/// The key that signs now. `keys` are all keys, newest first. If none signs yet, it is the oldest one: the clock of the
/// replica that created it is ahead.
pub fn signer(mut keys: Vec<SigningKey>, now: DateTime<Utc>) -> Option<SigningKey> {
    match keys.iter().position(|key| key.signs(now)) {
        Some(at) => Some(keys.swap_remove(at)),
        None => keys.pop(),
    }
}

/// The longest time for which tokens are accepted after they expired. It also covers a token that was being signed when
/// its key retired.
pub const LEEWAY: TimeDelta = TimeDelta::seconds(LONGEST_LEEWAY.as_secs() as i64);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_and_hidden_in_debug_output() {
        let (one, other) = (RefreshToken::random().unwrap(), RefreshToken::random().unwrap());
        assert_ne!(one.hash(), other.hash());
        let debug = format!("{one:?}");
        let text = one.clone().expose();
        assert_eq!(text.len(), 43);
        assert!(!debug.contains(&text));
        assert_eq!(RefreshToken::sent(text).hash(), one.hash());
    }

    #[test]
    fn a_successor_needs_both_the_token_and_the_salt() {
        let (token, salt) = (RefreshToken::random().unwrap(), Salt::random().unwrap());
        let next = token.successor(&salt).expose();
        assert_eq!(next.len(), 43);
        assert_eq!(token.successor(&Salt::stored(salt.as_bytes().to_vec())).expose(), next);
        assert_ne!(token.successor(&Salt::random().unwrap()).expose(), next);
        assert_ne!(RefreshToken::random().unwrap().successor(&salt).expose(), next);
        assert_eq!(format!("{salt:?}"), "Salt([redacted])");
    }

    #[test]
    fn the_public_key_verifies_signatures_of_its_key() {
        let now = Utc::now();
        let key = SigningKey::generate(now, now).unwrap();
        let claims = Claims {
            iss: "souk".into(),
            aud: "souk".into(),
            sub: "usr_x".into(),
            sid: "ses_x".into(),
            roles: vec!["STAFF".into()],
            scope: None,
            auth_time: Some(now.timestamp()),
            iat: now.timestamp(),
            exp: now.timestamp() + 60,
            jti: "1".into(),
        };
        let token = key.sign(&claims).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let check = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, &key.public_key);
        check.verify(message.as_bytes(), &signature).unwrap();
        assert!(check.verify(b"another", &signature).is_err());
        assert!(!format!("{key:?}").contains(&format!("{:?}", key.private_key)));
    }

    #[test]
    fn exactly_one_key_signs_at_any_time() {
        let now = Utc::now();
        let second = |seconds| now + TimeDelta::seconds(seconds);
        let mut old = SigningKey::generate(now, now).unwrap();
        old.retire_time = Some(second(10));
        let new = SigningKey::generate(now, second(10)).unwrap();
        let at = |time| signer(vec![new.clone(), old.clone()], time).unwrap().kid;
        assert_eq!([at(second(-5)), at(second(0)), at(second(9))], [(); 3].map(|()| old.kid.clone()));
        assert_eq!([at(second(10)), at(second(99))], [(); 2].map(|()| new.kid.clone()));
        assert!(signer(Vec::new(), now).is_none());
    }

    #[test]
    fn a_retired_key_stays_published_until_its_tokens_expired() {
        let now = Utc::now();
        let ttl = TimeDelta::minutes(15);
        let mut key = SigningKey::generate(now, now + TimeDelta::seconds(10)).unwrap();
        assert!(!key.signs(now) && key.is_published(now, ttl));
        assert!(key.signs(now + TimeDelta::seconds(10)));
        key.retire_time = Some(now + TimeDelta::hours(1));
        let at = |minutes| now + TimeDelta::minutes(minutes);
        assert!(key.signs(at(59)) && !key.signs(at(60)));
        assert!(key.is_published(at(75), ttl) && !key.is_published(at(76), ttl));
    }
}
