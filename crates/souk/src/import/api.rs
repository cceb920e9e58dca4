//! souk's public API as the importer uses it: REST through the gateway, with log-in and patience.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use crate::data_dir::Credentials;

/// How long a call is repeated while souk is busy, starting or being restarted.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Who the importer is.
pub enum Identity {
    /// A token that was given.
    Token(String),
    /// Someone who can log in.
    Credentials(Credentials),
}

/// A connection to souk.
pub struct Api {
    http: reqwest::Client,
    base: String,
    identity: Identity,
    token: Mutex<Option<String>>,
}

/// souk said no.
#[derive(Debug, thiserror::Error)]
#[error("{status} {reason}: {detail}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// Why, for programs: a value of `souk.common.v1.ErrorReason`.
    pub reason: String,
    /// Why, for people.
    pub detail: String,
}

/// What a call can come to.
pub type Answer = Result<Value, Refusal>;

impl Api {
    /// Connects lazily.
    pub fn new(base: &str, identity: Identity) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
        let token = match &identity {
            Identity::Token(token) => Some(token.clone()),
            Identity::Credentials(_) => None,
        };
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), identity, token: Mutex::new(token) })
    }

    /// Asks for something.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, query, None).await
    }

    /// Sends something. Only for calls that may be repeated.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let token = self.token().await?;
            let outcome = self.once(method.clone(), path, query, body, Some(&token)).await;
            let trouble = match outcome {
                Ok(Err(refusal)) if refusal.reason == "TOKEN_EXPIRED" && self.forget(&token).await => continue,
                Ok(Err(refusal)) if is_passing(&refusal) => anyhow!(refusal),
                Ok(answer) => return Ok(answer),
                Err(error) => anyhow!(error),
            };
            if started.elapsed() > PATIENCE {
                let hint = "run the import again to go on where it stopped";
                return Err(trouble).with_context(|| format!("{} did not answer for {PATIENCE:?}; {hint}", self.base));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
        let bytes = response.bytes().await?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(Ok(value));
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Err(Refusal { status, reason: text("reason"), detail: text("detail") }))
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
                    return Err(refusal).context("souk does not let the administrator of the data folder log in");
                }
                _ if started.elapsed() < PATIENCE => tokio::time::sleep(LONGEST_PAUSE).await,
                Ok(Err(refusal)) => return Err(refusal.into()),
                Err(error) => return Err(error).with_context(|| format!("{} cannot be reached", self.base)),
            }
        };
        let fresh = session.get("accessToken").and_then(Value::as_str).context("log-in gave no token")?.to_owned();
        *token = Some(fresh.clone());
        Ok(fresh)
    }

    /// Drops a token that ran out; `false` where no other can be had.
    async fn forget(&self, expired: &str) -> bool {
        if matches!(self.identity, Identity::Token(_)) {
            return false;
        }
        let mut token = self.token.lock().await;
        if token.as_deref() == Some(expired) {
            *token = None;
        }
        true
    }
}

/// Whether the same call may succeed a little later.
fn is_passing(refusal: &Refusal) -> bool {
    let busy = matches!(refusal.reason.as_str(), "REQUEST_IN_PROGRESS" | "CONFLICT" | "OVERLOADED" | "RATE_LIMITED");
    busy || matches!(refusal.status.as_u16(), 429 | 502 | 503 | 504)
}
