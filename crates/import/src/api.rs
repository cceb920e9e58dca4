//! souk's public API as `souk import` and `souk prove` use it: REST through the gateway, with log-in and retries.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use anyhow::{Context, anyhow, bail};
use reqwest::{Method, StatusCode, header::RETRY_AFTER};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

/// How long a call is repeated while souk is busy, starting or being restarted.
const TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The credentials of a user.
#[derive(Serialize, Deserialize)]
pub struct Credentials {
    /// Email to log in with.
    pub email: String,
    /// The password.
    pub password: String,
}

/// The identity that calls are made with.
pub enum Identity {
    /// An access token.
    Token(String),
    /// Credentials to log in with.
    Credentials(Credentials),
}

/// A connection to souk.
pub struct Api {
    http: reqwest::Client,
    base: String,
    identity: Identity,
    token: Mutex<Option<String>>,
    repeated: std::sync::Mutex<BTreeMap<String, u64>>,
}

/// An error response of souk.
#[derive(Debug, thiserror::Error)]
#[error("{status} {reason}: {detail}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The reason for programs: a value of `souk.common.v1.ErrorReason`.
    pub reason: String,
    /// The reason for people.
    pub detail: String,
    /// The time to wait before the next attempt, if souk was too busy.
    retry_after: Option<Duration>,
}

/// The result of a call.
pub type Answer = Result<Value, Refusal>;

impl Api {
    /// Connects lazily.
    pub fn new(base: &str, identity: Identity) -> anyhow::Result<Self> {
        if !base.starts_with("http://") {
            bail!("`{base}` is not an address that can be reached: it must look like http://host:port");
        }
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
        let token = match &identity {
            Identity::Token(token) => Some(token.clone()),
            Identity::Credentials(_) => None,
        };
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            identity,
            token: Mutex::new(token),
            repeated: Default::default(),
        })
    }

    /// The reasons for repeated calls so far, with the number of repetitions.
    pub fn repeated(&self) -> BTreeMap<String, u64> {
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a product, or finds the existing one with its stock code; returns its resource name.
    pub async fn product(&self, sku: &str, body: &Value) -> anyhow::Result<String> {
        match self.post("/v1/products", body).await? {
            Ok(product) => Ok(text(&product, "name")?.to_owned()),
            // An earlier attempt, whose response was lost, has made it.
            Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => {
                let found = self.get("/v1/products:batchGet", &[("skus", sku)]).await??;
                let product = list(&found, "products").next();
                let product = product.with_context(|| format!("product {sku} is neither there nor free"))?;
                Ok(text(product, "name")?.to_owned())
            }
            Err(refusal) => Err(refusal).with_context(|| format!("product {sku} was refused")),
        }
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, query, None, true).await
    }

    /// Sends a POST request. The call must be safe to repeat.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, &[], Some(body), true).await
    }

    /// Sends a POST request without a token. The call must be safe to repeat.
    pub async fn post_as_no_one(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, &[], Some(body), false).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        signed_in: bool,
    ) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let token = if signed_in { Some(self.token().await?) } else { None };
            let outcome = self.once(method.clone(), path, query, body, token.as_deref()).await;
            let trouble = match outcome {
                Ok(Err(refusal)) if refusal.reason == "TOKEN_EXPIRED" && self.forget(token).await => continue,
                Ok(Err(refusal)) if is_passing(&refusal) => anyhow!(refusal),
                Ok(answer) => return Ok(answer),
                Err(error) => anyhow!(error),
            };
            if started.elapsed() > TIMEOUT {
                return Err(trouble).with_context(|| format!("{} did not answer for {TIMEOUT:?}", self.base));
            }
            tokio::time::sleep(self.note(&trouble).unwrap_or_default().max(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Counts a repeated call; returns the time that souk asks to wait first.
    fn note(&self, trouble: &anyhow::Error) -> Option<Duration> {
        let refusal = trouble.downcast_ref::<Refusal>();
        let why = refusal.map_or_else(|| "no answer".to_owned(), |refusal| refusal.reason.clone());
        *self.repeated.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_default() += 1;
        refusal?.retry_after
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).query(query);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        // `Retry-After` has whole seconds, which is too coarse for a request that is still in progress.
        let busy = matches!(status.as_u16(), 429 | 503);
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let bytes = response.bytes().await?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(Ok(value));
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Err(Refusal {
            status,
            reason: text("reason"),
            detail: text("detail"),
            retry_after: retry_after.filter(|_| busy).map(Duration::from_secs),
        }))
    }

    async fn token(&self) -> anyhow::Result<String> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let Identity::Credentials(credentials) = &self.identity else { bail!("SOUK_TOKEN has expired") };
        let body = json!({ "email": credentials.email, "password": credentials.password });
        let started = Instant::now();
        let session = loop {
            match self.once(Method::POST, "/v1/sessions:logIn", &[], Some(&body), None).await {
                Ok(Ok(session)) => break session,
                Ok(Err(refusal)) if !is_passing(&refusal) => {
                    return Err(refusal).with_context(|| format!("souk does not let {} log in", credentials.email));
                }
                _ if started.elapsed() < TIMEOUT => tokio::time::sleep(LONGEST_PAUSE).await,
                Ok(Err(refusal)) => return Err(refusal.into()),
                Err(error) => return Err(error).with_context(|| format!("{} cannot be reached", self.base)),
            }
        };
        let fresh = session.get("accessToken").and_then(Value::as_str).context("log-in gave no token")?.to_owned();
        *token = Some(fresh.clone());
        Ok(fresh)
    }

    /// Removes an expired token; returns `false` if there is no way to get another one.
    async fn forget(&self, expired: Option<String>) -> bool {
        if matches!(self.identity, Identity::Token(_)) {
            return false;
        }
        let mut token = self.token.lock().await;
        if *token == expired {
            *token = None;
        }
        true
    }
}

/// A string field of a response. It is an error if the response does not have it.
pub fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("the answer has no `{key}`"))
}

/// The entries of a list in a response.
pub fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// True if the same call may succeed later.
fn is_passing(refusal: &Refusal) -> bool {
    let busy = matches!(refusal.reason.as_str(), "REQUEST_IN_PROGRESS" | "CONFLICT" | "OVERLOADED" | "RATE_LIMITED");
    busy || matches!(refusal.status.as_u16(), 429 | 502 | 503 | 504)
}
