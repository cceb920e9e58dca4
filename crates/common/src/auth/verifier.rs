//! Verifies tokens: users' tokens with the published keys, services' tokens with the internal secret.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::{
    Admit, Claims, Config, EndedFeed, Grant, Identity,
    ended::{Ended, has_ended},
    reauthentication_required,
    service::ServiceTokenCheck,
};
use crate::{
    contract::AccessRule,
    error::{Problem, Reason},
};

/// The minimum time between two reads of the keys. A token that names an unknown key causes a read.
const MIN_REFRESH: Duration = Duration::from_secs(2);
/// The maximum age of the known keys. They are read again after this time, so that retired keys are forgotten.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The maximum number of cached results of token checks.
const REMEMBERED: u64 = 10_000;

/// A published Ed25519 key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// The id of the key, as in the header of the tokens that it signs.
    pub kid: String,
    /// The public key, base64url without padding.
    pub x: String,
}

/// A source of the keys that are valid now.
#[tonic::async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// Returns the keys in use, and earlier keys whose tokens have not all expired.
    async fn keys(&self) -> Result<Vec<PublishedKey>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A caller's identity and the time of its expiry.
#[derive(Debug, Clone)]
pub struct Identified {
    /// The caller's identity.
    pub identity: Identity,
    /// When the token expires (seconds since 1970). `None`: no token.
    expires: Option<i64>,
}

/// Converts the `authorization` header of a request to an [`Identity`].
pub struct Verifier {
    source: Arc<dyn KeySource>,
    keys: RwLock<Keys>,
    refreshing: Mutex<()>,
    validation: Validation,
    services: ServiceTokenCheck,
    /// How long expired tokens are still accepted, in seconds.
    leeway: i64,
    /// How long ago a recent log-in may be, in seconds. 0: any time.
    recent_log_in: i64,
    /// Results of checks by the SHA-256 of the token, with the time when the token expires (seconds since 1970). A
    /// cached result does not extend a token's life. The lifetime of a cache entry only limits how long the tokens of a
    /// withdrawn key are still accepted.
    checked: moka::sync::Cache<[u8; 32], (Identity, i64)>,
    /// Sessions whose tokens are refused before they expire.
    ended: Option<Arc<Ended>>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, DecodingKey>,
    fetched: Option<Instant>,
}

impl Verifier {
    /// Creates a verifier that checks user tokens with the keys of this source.
    pub fn new(config: &Config, source: Arc<dyn KeySource>) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = config.leeway.as_secs();
        let checked = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(MAX_AGE).build();
        Self {
            source,
            keys: RwLock::default(),
            refreshing: Mutex::new(()),
            leeway: i64::try_from(validation.leeway).unwrap_or(i64::MAX),
            recent_log_in: i64::try_from(config.recent_log_in.as_secs()).unwrap_or(i64::MAX),
            validation,
            services: ServiceTokenCheck::new(&config.internal_secret, config.leeway),
            checked,
            ended: None,
        }
    }

    /// Makes the verifier also refuse the tokens of ended sessions, as soon as this feed reports the end. Must be
    /// called in a tokio runtime.
    #[must_use]
    pub fn with_ended_sessions(mut self, feed: Arc<dyn EndedFeed>) -> Self {
        self.ended = Some(Ended::follow(feed));
        self
    }

    /// Checks the access rule of a method, including a recent log-in if the rule needs one.
    ///
    /// # Errors
    /// Those of [`Admit::admit`]; `UNAUTHENTICATED` if the log-in is too old.
    pub fn admit(&self, rule: &AccessRule, identity: &Identity) -> Result<Grant, Problem> {
        let grant = rule.admit(identity)?;
        if rule.recent_log_in && !self.is_recent(identity) { Err(reauthentication_required()) } else { Ok(grant) }
    }

    /// True unless this is a user whose log-in is too old for methods that need a recent one.
    pub fn is_recent(&self, identity: &Identity) -> bool {
        let Identity::User { auth_time, .. } = identity else { return true };
        let oldest = chrono::Utc::now().timestamp().saturating_sub(self.recent_log_in).saturating_sub(self.leeway);
        self.recent_log_in == 0 || auth_time.is_some_and(|time| time >= oldest)
    }

    /// Waits until this caller's token is no longer valid, and returns the reason. Never completes if there is no
    /// token. For work that continues after a token was checked, such as a stream.
    pub fn over(&self, caller: &Identified) -> impl Future<Output = Problem> + Send + use<> {
        let followed = match &caller.identity {
            Identity::User { session, .. } => self.ended.clone().map(|ended| (ended, *session)),
            _ => None,
        };
        let session_ended = async move {
            match followed {
                Some((ended, session)) => ended.until(session).await,
                None => std::future::pending().await,
            }
        };
        // The token is valid until the end of this second.
        let last = caller.expires.map(|expires| expires.saturating_add(self.leeway));
        async move {
            tokio::select! {
                () = session_ended => has_ended(),
                () = until_after(last) => has_expired(),
            }
        }
    }

    /// Identifies the sender of a request by its headers.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the token is invalid or its session has ended (a request without a token is
    /// [`Identity::Anonymous`]); `UNAVAILABLE` if the keys or the list of ended sessions cannot be read.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        Ok(self.identify_for_long(headers).await?.identity)
    }

    /// Like [`Self::identify`], with the token's expiry: for a response that continues after it has begun.
    ///
    /// # Errors
    /// See [`Self::identify`].
    pub async fn identify_for_long(&self, headers: &HeaderMap) -> Result<Identified, Problem> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(Identified { identity: Identity::Anonymous, expires: None });
        };
        if values.next().is_some() {
            return Err(invalid("more than one authorization header was sent"));
        }
        let text = value.to_str().map_err(|_| invalid("the authorization header is not text"))?;
        match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                let (identity, expires) = self.check(token.trim()).await?;
                if let (Identity::User { session, .. }, Some(ended)) = (&identity, &self.ended) {
                    ended.refuse(*session).await?;
                }
                Ok(Identified { identity, expires: Some(expires) })
            }
            _ => Err(invalid("the authorization header must read `Bearer <access token>`")),
        }
    }

    /// Checks a token. Returns its identity and when it expires (seconds since 1970).
    async fn check(&self, token: &str) -> Result<(Identity, i64), Problem> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((identity, expires)) = self.checked.get(&digest) {
            if chrono::Utc::now().timestamp() <= expires.saturating_add(self.leeway) {
                return Ok((identity, expires));
            }
            self.checked.invalidate(&digest);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid("the token is not a JWT"))?;
        let (identity, expires) = match header.alg {
            Algorithm::HS256 => self.services.check(token).map_err(|error| refused(&error))?,
            Algorithm::EdDSA => {
                let kid = header.kid.ok_or_else(|| invalid("the token does not name its key"))?;
                let key = self.key(&kid).await?;
                let data = jsonwebtoken::decode::<Claims>(token, &key, &self.validation);
                let claims = data.map_err(|error| refused(&error))?.claims;
                let identity = claims.identity().ok_or_else(|| invalid("the token names no user of souk"))?;
                (identity, claims.exp)
            }
            _ => {
                return Err(invalid("the token is signed in a way that souk does not use"));
            }
        };
        self.checked.insert(digest, (identity.clone(), expires));
        Ok((identity, expires))
    }

    async fn key(&self, kid: &str) -> Result<DecodingKey, Problem> {
        let (known, age) = self.known(kid);
        if let Some(key) = known
            && age.is_some_and(|age| age < MAX_AGE)
        {
            return Ok(key);
        }
        // Only one request reads the keys. Requests that wait for this lock find the new keys afterwards.
        let _guard = self.refreshing.lock().await;
        let (known, age) = self.known(kid);
        let stale = age.is_none_or(|age| age >= if known.is_some() { MAX_AGE } else { MIN_REFRESH });
        if stale && let Err(error) = self.refresh().await {
            // While the user service restarts, recently read keys stay valid, so that not every request is refused.
            return known.ok_or(error);
        }
        self.known(kid).0.ok_or_else(|| invalid("the token is signed with a key that is not, or no longer, published"))
    }

    fn known(&self, kid: &str) -> (Option<DecodingKey>, Option<Duration>) {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        (keys.by_id.get(kid).cloned(), keys.fetched.map(|fetched| fetched.elapsed()))
    }

    async fn refresh(&self) -> Result<(), Problem> {
        let published = self.source.keys().await.map_err(|error| {
            Problem::unavailable("the service that publishes the keys tokens are checked with").caused_by(error)
        })?;
        let mut by_id = HashMap::new();
        for key in published {
            match DecodingKey::from_ed_components(&key.x) {
                Ok(decoding) => drop(by_id.insert(key.kid, decoding)),
                Err(error) => {
                    tracing::warn!(kid = key.kid, %error, "cannot read a published signing key")
                }
            }
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *keys = Keys { by_id, fetched: Some(Instant::now()) };
        Ok(())
    }
}

fn has_expired() -> Problem {
    Problem::new(Reason::TokenExpired, "the token has expired: refresh the session or log in again")
}

/// The maximum time between two looks at the clock that tokens expire by. The clock may be set, or may run on while the
/// machine sleeps, so one long wait would not be exact.
const LOOK: Duration = Duration::from_secs(30);

/// Waits until the end of this second (since 1970). Never completes if there is none.
async fn until_after(last: Option<i64>) {
    let Some(last) = last else { return std::future::pending().await };
    let end = last.saturating_add(1).saturating_mul(1000);
    while let Ok(left @ 1..) = u64::try_from(end.saturating_sub(chrono::Utc::now().timestamp_millis())) {
        tokio::time::sleep(Duration::from_millis(left).min(LOOK)).await;
    }
}

fn invalid(message: &str) -> Problem {
    Problem::new(Reason::TokenInvalid, message)
}

fn refused(error: &jsonwebtoken::errors::Error) -> Problem {
    match error.kind() {
        ErrorKind::ExpiredSignature => has_expired(),
        ErrorKind::MissingRequiredClaim(claim) => {
            Problem::new(Reason::TokenInvalid, format!("the token lacks the claim `{claim}`: an older souk made it"))
        }
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => {
            invalid("the token was issued by or for another system")
        }
        _ => invalid("the token is malformed or its signature is wrong"),
    }
}
