//! Tokens that authenticate souk's services to each other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};

use super::{Identity, secret::SHORTEST};
use crate::config::Secret;

const ISSUER: &str = "souk-internal";
/// How long a token is used, in seconds. Short, because making a new token is cheap.
const USED: i64 = 60;
/// The maximum difference between the clock that a token was made by and the clock that checks it, in seconds. Kerberos
/// allows the same difference: the clock of a virtual machine that slept, or of a host whose time was never set, can be
/// off by that much until it is corrected.
const SKEW: i64 = 300;
/// How long a token is valid, in seconds. Use and validity are measured by the same clock, the wall clock. A monotonic
/// clock would differ: it stands still while a machine sleeps, and does not jump when the wall clock is set.
const VALID: i64 = USED + SKEW;

#[derive(Serialize, Deserialize)]
struct ServiceClaims {
    iss: String,
    /// The calling service: `order`.
    sub: String,
    /// The full name of the called gRPC service. Tokens of older versions lack it.
    aud: Option<String>,
    exp: i64,
}

/// Makes the tokens of one service: JWTs, signed with the installation's internal secret (HS256).
#[derive(Clone)]
pub struct ServiceTokens {
    service: Arc<str>,
    key: EncodingKey,
    /// By audience: the token as a header value, and when it was made, in seconds since 1970.
    current: Arc<Mutex<HashMap<String, (HeaderValue, i64)>>>,
}

impl ServiceTokens {
    /// Makes tokens that authenticate the service of this name.
    pub fn new(secret: &Secret, service: &str) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { service: service.into(), key, current: Arc::default() }
    }

    /// Returns the value of an `authorization` header. It is valid for at least five minutes, and only for calls of one
    /// gRPC service: `audience` is its full name, such as `souk.user.v1.SessionService`.
    pub fn bearer(&self, audience: &str) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        self.bearer_at(audience, chrono::Utc::now().timestamp())
    }

    fn bearer_at(&self, audience: &str, now: i64) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A token with a time in the future was made before the clock was set back. It is replaced.
        if let Some((value, made)) = current.get(audience)
            && (0..USED).contains(&now.saturating_sub(*made))
        {
            return Ok(value.clone());
        }
        let claims = ServiceClaims {
            iss: ISSUER.into(),
            sub: self.service.to_string(),
            aud: Some(audience.to_owned()),
            exp: now + VALID,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ErrorKind::InvalidToken)?;
        value.set_sensitive(true);
        current.insert(audience.to_owned(), (value.clone(), now));
        Ok(value)
    }
}

/// Checks the tokens of services.
pub(super) struct ServiceTokenCheck {
    key: DecodingKey,
    validation: Validation,
}

impl ServiceTokenCheck {
    /// Checks tokens that are signed with this secret. They are accepted for `leeway` after they expire.
    pub(super) fn new(secret: &Secret, leeway: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = leeway.as_secs();
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // The called service is not known here. `Identity::check_audience` checks the audience later.
        validation.validate_aud = false;
        // With a weak secret, anyone could make tokens. No token is accepted then.
        let key = match secret.expose() {
            secret if secret.len() >= SHORTEST => DecodingKey::from_secret(secret.as_bytes()),
            _ => DecodingKey::from_secret(&rand::random::<[u8; 32]>()),
        };
        Self { key, validation }
    }

    /// Returns the service that a token authenticates, with the audience of the token, and the time of its expiry
    /// (seconds since 1970).
    pub(super) fn check(&self, token: &str) -> Result<(Identity, i64), jsonwebtoken::errors::Error> {
        let claims = jsonwebtoken::decode::<ServiceClaims>(token, &self.key, &self.validation)?.claims;
        let audience = claims.aud.ok_or_else(|| ErrorKind::MissingRequiredClaim("aud".to_owned()))?;
        Ok((Identity::Service { name: claims.sub, audience }, claims.exp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIENCE: &str = "souk.inventory.v1.StockService";

    #[test]
    fn tokens_signed_with_an_empty_or_short_secret_are_refused() {
        for (secret, good) in [("", false), ("too short", false), ("a secret that is long enough for it", true)] {
            let secret = Secret::new(secret);
            let bearer = ServiceTokens::new(&secret, "order").bearer(AUDIENCE).unwrap();
            let token = bearer.to_str().unwrap().trim_start_matches("Bearer ");
            assert_eq!(ServiceTokenCheck::new(&secret, Duration::ZERO).check(token).is_ok(), good);
        }
    }

    const SECRET: &str = "a secret that is long enough for it";

    #[test]
    fn a_token_is_renewed_when_the_wall_clock_is_set() {
        let tokens = ServiceTokens::new(&Secret::new(SECRET), "order");
        let now = 1_800_000_000;
        let first = tokens.bearer_at(AUDIENCE, now).unwrap();
        let same = |at: i64| tokens.bearer_at(AUDIENCE, at).unwrap() == first;
        assert!(same(now) && same(now + USED - 1));
        for step in [USED, 200, 300, 86_400, -1, -300, -86_400] {
            tokens.bearer_at(AUDIENCE, now).unwrap();
            let stepped = tokens.bearer_at(AUDIENCE, now + step).unwrap();
            let (_, claims) = stepped.to_str().unwrap().split_once('.').unwrap();
            let claims = claims.split('.').next().unwrap();
            let claims: ServiceClaims = {
                use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
            };
            assert_eq!(claims.exp, now + step + VALID, "after a step of {step} s");
        }
    }

    #[test]
    fn a_token_is_valid_on_hosts_whose_clocks_differ_by_minutes() {
        let (secret, leeway) = (Secret::new(SECRET), Duration::from_secs(30));
        let check = ServiceTokenCheck::new(&secret, leeway);
        let now = chrono::Utc::now().timestamp();
        let good = |made: i64| {
            let bearer = ServiceTokens::new(&secret, "order").bearer_at(AUDIENCE, made).unwrap();
            check.check(bearer.to_str().unwrap().trim_start_matches("Bearer ")).is_ok()
        };
        // The last second in which the token is used, checked by a clock that is ahead by the maximum.
        assert!(good(now - USED - SKEW + 1) && good(now - USED - SKEW - 20) && good(now + 3_600));
        assert!(!good(now - USED - SKEW - 60));
    }
}
