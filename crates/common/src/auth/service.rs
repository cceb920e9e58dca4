//! Tokens that souk's services prove themselves to each other with.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::Identity;
use crate::config::Secret;

const ISSUER: &str = "souk-internal";
/// How long a token is valid. Short, since it is made anew at no cost.
const VALID: Duration = Duration::from_secs(120);
/// A token is used for half its time, so that one in flight never runs out.
const USED: Duration = Duration::from_secs(60);

/// Characters of the shortest secret that tokens may be made under.
pub const SHORTEST_SECRET: usize = 32;

#[derive(Serialize, Deserialize)]
struct ServiceClaims {
    iss: String,
    sub: String,
    exp: i64,
}

/// Makes the tokens of one service: JWTs under the installation's internal secret (HS256).
#[derive(Clone)]
pub struct ServiceTokens {
    service: Arc<str>,
    key: EncodingKey,
    current: Arc<Mutex<Option<(HeaderValue, Instant)>>>,
}

impl ServiceTokens {
    /// Tokens that say "I am `service`".
    pub fn new(secret: &Secret, service: &str) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { service: service.into(), key, current: Arc::default() }
    }

    /// The value of an `authorization` header, valid for a minute at least.
    pub fn bearer(&self) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, made)) = &*current
            && made.elapsed() < USED
        {
            return Ok(value.clone());
        }
        let exp = chrono::Utc::now().timestamp() + VALID.as_secs() as i64;
        let claims = ServiceClaims { iss: ISSUER.into(), sub: self.service.to_string(), exp };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| jsonwebtoken::errors::ErrorKind::InvalidToken)?;
        value.set_sensitive(true);
        *current = Some((value.clone(), Instant::now()));
        Ok(value)
    }
}

/// Checks the tokens of services.
pub(super) struct ServiceTokenCheck {
    key: DecodingKey,
    validation: Validation,
}

impl ServiceTokenCheck {
    pub(super) fn new(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.validate_aud = false;
        // Without a secret worth the name anyone could make tokens: then none is good.
        let key = match secret.expose() {
            secret if secret.len() >= SHORTEST_SECRET => DecodingKey::from_secret(secret.as_bytes()),
            _ => DecodingKey::from_secret(&rand::random::<[u8; 32]>()),
        };
        Self { key, validation }
    }

    /// The service that the token names, and when the token runs out (seconds since 1970).
    pub(super) fn check(&self, token: &str) -> Result<(Identity, i64), jsonwebtoken::errors::Error> {
        let claims = jsonwebtoken::decode::<ServiceClaims>(token, &self.key, &self.validation)?.claims;
        Ok((Identity::Service { name: claims.sub }, claims.exp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_under_no_secret_are_good_for_nothing() {
        for (secret, good) in [("", false), ("too short", false), ("a secret that is long enough for it", true)] {
            let secret = Secret::new(secret);
            let bearer = ServiceTokens::new(&secret, "order").bearer().unwrap();
            let token = bearer.to_str().unwrap().trim_start_matches("Bearer ");
            assert_eq!(ServiceTokenCheck::new(&secret).check(token).is_ok(), good);
        }
    }
}
