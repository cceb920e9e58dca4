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
/// A token is used for this many seconds. Short, since it is made again at no cost.
const USED: i64 = 60;
/// The clock that checks a token may be this many seconds ahead of the clock it was made by. Kerberos allows as much: a
/// virtual machine that slept, or a host whose clock was never set, is off by that much until its clock is set right.
const SKEW: i64 = 300;
/// How many seconds a token is valid. Whether it is still used and whether it is still valid are told by one clock, that
/// of the wall: a steady clock stands still while a machine sleeps, and does not jump when the other one is set.
const VALID: i64 = USED + SKEW;

#[derive(Serialize, Deserialize)]
struct ServiceClaims {
    iss: String,
    /// The service that calls: `order`.
    sub: String,
    /// The full name of the gRPC service that it calls. Old tokens lack it.
    aud: Option<String>,
    exp: i64,
}

/// Makes the tokens of one service: JWTs under the installation's internal secret (HS256).
#[derive(Clone)]
pub struct ServiceTokens {
    service: Arc<str>,
    key: EncodingKey,
    /// By audience, with when it was made, in seconds since 1970.
    current: Arc<Mutex<HashMap<String, (HeaderValue, i64)>>>,
}

impl ServiceTokens {
    /// Tokens that say "I am `service`".
    pub fn new(secret: &Secret, service: &str) -> Self {
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        Self { service: service.into(), key, current: Arc::default() }
    }

    /// The value of an `authorization` header, valid for five minutes at least, and for calls of one gRPC service alone:
    /// `audience` is its full name, such as `souk.user.v1.SessionService`.
    pub fn bearer(&self, audience: &str) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        self.bearer_at(audience, chrono::Utc::now().timestamp())
    }

    fn bearer_at(&self, audience: &str, now: i64) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // One from the future was made before the clock was set back.
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
    /// Of tokens under this secret, which are good for `leeway` more than they say.
    pub(super) fn new(secret: &Secret, leeway: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = leeway.as_secs();
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Whether it is the service that was called is known only where the call is: `Identity::check_audience`.
        validation.validate_aud = false;
        // With a weak secret anyone could make tokens: then none is accepted.
        let key = match secret.expose() {
            secret if secret.len() >= SHORTEST => DecodingKey::from_secret(secret.as_bytes()),
            _ => DecodingKey::from_secret(&rand::random::<[u8; 32]>()),
        };
        Self { key, validation }
    }

    /// The service that the token names and the one that it is for, and when the token expires (seconds since 1970).
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
    fn tokens_under_no_secret_are_good_for_nothing() {
        for (secret, good) in [("", false), ("too short", false), ("a secret that is long enough for it", true)] {
            let secret = Secret::new(secret);
            let bearer = ServiceTokens::new(&secret, "order").bearer(AUDIENCE).unwrap();
            let token = bearer.to_str().unwrap().trim_start_matches("Bearer ");
            assert_eq!(ServiceTokenCheck::new(&secret, Duration::ZERO).check(token).is_ok(), good);
        }
    }

    const SECRET: &str = "a secret that is long enough for it";

    #[test]
    fn a_token_is_made_anew_when_its_time_is_over_by_the_clock_that_it_runs_out_by() {
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
    fn a_token_bears_a_checker_whose_clock_is_minutes_ahead_or_behind() {
        let (secret, leeway) = (Secret::new(SECRET), Duration::from_secs(30));
        let check = ServiceTokenCheck::new(&secret, leeway);
        let now = chrono::Utc::now().timestamp();
        let good = |made: i64| {
            let bearer = ServiceTokens::new(&secret, "order").bearer_at(AUDIENCE, made).unwrap();
            check.check(bearer.to_str().unwrap().trim_start_matches("Bearer ")).is_ok()
        };
        // In the last second of its use, at a checker who is that much ahead.
        assert!(good(now - USED - SKEW + 1) && good(now - USED - SKEW - 20) && good(now + 3_600));
        assert!(!good(now - USED - SKEW - 60));
    }
}
