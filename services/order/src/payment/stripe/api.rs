//! Stripe's HTTP API, as far as souk needs it. Tells a refusal from having no answer.

use std::{collections::HashMap, error::Error, fmt};

use reqwest::{RequestBuilder, StatusCode, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use souk_common::{config::Secret, money::Currency};

use crate::config::StripeSettings;

/// The version of the API that is spoken, whatever the account's own is.
const VERSION: &str = "2024-06-20";
/// How many of a list come at a time: the most that Stripe gives.
const PAGE: &str = "100";

/// A client of the API.
pub struct Api {
    http: reqwest::Client,
    base: String,
    key: Secret,
}

/// A PaymentIntent.
#[derive(Clone, Debug, Deserialize)]
pub struct Intent {
    /// `pi_…`
    pub id: String,
    /// Where it is in its life.
    pub status: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
    /// Why it was declined last.
    #[serde(default)]
    pub last_payment_error: Option<Refusal>,
}

/// A refund.
#[derive(Clone, Debug, Deserialize)]
pub struct Refund {
    id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

impl Refund {
    /// Whether the money goes back, or has.
    pub fn holds(&self) -> bool {
        !matches!(self.status.as_deref(), Some("failed" | "canceled"))
    }
}

/// A part of a list.
#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    has_more: bool,
}

/// What Stripe says of a request that it refuses, or of a card.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Refusal {
    #[serde(skip)]
    status: u16,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    decline_code: Option<String>,
    #[serde(default)]
    param: Option<String>,
    /// For the customer, where it is about the card.
    #[serde(default)]
    pub message: Option<String>,
}

impl Refusal {
    /// Whether it gives this code.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the card is what is refused.
    pub fn is_of_the_card(&self) -> bool {
        self.status == StatusCode::PAYMENT_REQUIRED || self.kind.as_deref() == Some("card_error")
    }

    /// Whether the same request may go through later: what is refused is not what it asks for, but that it is asked
    /// now (409, 429, a lock, another request with its key), or by whom (401, 403).
    fn may_pass(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        !(400..500).contains(&self.status)
            || matches!(self.status, 401 | 403 | 409 | 424 | 429)
            || matches!(code, "lock_timeout" | "rate_limit" | "idempotency_key_in_use")
            || matches!(self.kind.as_deref(), Some("api_error" | "idempotency_error"))
    }
}

/// Without the message, which may repeat what was sent.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        let parts = [("type", &self.kind), ("code", &self.code), ("decline_code", &self.decline_code)];
        for (name, value) in parts.into_iter().chain([("param", &self.param)]) {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Stripe refuses what is asked, for good.
    #[error("Stripe refuses: {0}")]
    Refused(Refusal),
    /// Whether it was done is unknown, or it may be done when asked again.
    #[error("no answer from Stripe: {0}")]
    Unanswered(#[source] Box<dyn Error + Send + Sync>),
}

impl Api {
    /// A client. Connects when it is first used.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(settings: &StripeSettings) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("souk/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let base = settings.api_base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, key: settings.api_key.clone() })
    }

    /// Makes an intent to be paid by this payment method, and captured later. It holds nothing yet.
    pub async fn create(
        &self,
        units: i64,
        currency: Currency,
        payment_method: &str,
        metadata: &[(&str, &str)],
        idempotency: &str,
    ) -> Result<Intent, ApiError> {
        let mut form = vec![
            ("amount".to_owned(), units.to_string()),
            ("currency".to_owned(), currency.code().to_lowercase()),
            ("payment_method".to_owned(), payment_method.to_owned()),
            ("payment_method_types[]".to_owned(), "card".to_owned()),
            ("capture_method".to_owned(), "manual".to_owned()),
        ];
        form.extend(named(metadata));
        let request = self.http.post(self.url("payment_intents")).form(&form);
        self.send(request.header("Idempotency-Key", idempotency)).await
    }

    /// An intent as it is.
    pub async fn intent(&self, id: &str) -> Result<Intent, ApiError> {
        self.send(self.http.get(self.url(&format!("payment_intents/{id}")))).await
    }

    /// Confirms, captures or cancels an intent: each can be done once only, so it may be asked again.
    pub async fn act(&self, id: &str, action: &str) -> Result<Intent, ApiError> {
        self.send(self.http.post(self.url(&format!("payment_intents/{id}/{action}")))).await
    }

    /// The intents made since a time in seconds since 1970, those of others on the account included.
    pub async fn intents_since(&self, oldest: i64) -> Result<Vec<Intent>, ApiError> {
        // Newest first: once a page has none of the time, there are no more.
        let of_the_time = |intent: &Intent| intent.created >= oldest;
        let path = self.url("payment_intents");
        self.list(&path, &[], |page| page.iter().any(of_the_time), |intent: &Intent| &intent.id).await
    }

    /// The refunds of an intent.
    pub async fn refunds(&self, intent: &str) -> Result<Vec<Refund>, ApiError> {
        let path = self.url("refunds");
        self.list(&path, &[("payment_intent", intent)], |_| true, |refund: &Refund| &refund.id).await
    }

    /// Gives money back.
    pub async fn refund(
        &self,
        intent: &str,
        units: i64,
        metadata: &[(&str, &str)],
        idempotency: &str,
    ) -> Result<Refund, ApiError> {
        let mut form = vec![("payment_intent".to_owned(), intent.to_owned()), ("amount".to_owned(), units.to_string())];
        form.extend(named(metadata));
        let request = self.http.post(self.url("refunds")).form(&form);
        self.send(request.header("Idempotency-Key", idempotency)).await
    }

    async fn list<T: DeserializeOwned>(
        &self,
        url: &str,
        query: &[(&str, &str)],
        go_on: impl Fn(&[T]) -> bool,
        id: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>, ApiError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let mut request = self.http.get(url).query(query).query(&[("limit", PAGE)]);
            if let Some(last) = all.last() {
                request = request.query(&[("starting_after", id(last))]);
            }
            let page: Page<T> = self.send(request).await?;
            let more = page.has_more && go_on(&page.data);
            all.extend(page.data);
            if !more {
                return Ok(all);
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.base)
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        let request = request.bearer_auth(self.key.expose()).header("Stripe-Version", VERSION);
        let response = request.send().await.map_err(unanswered)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unanswered)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| ApiError::Unanswered(error.into()));
        }
        let refusal = refusal(status.as_u16(), &body);
        if refusal.may_pass() {
            Err(ApiError::Unanswered(refusal.to_string().into()))
        } else {
            Err(ApiError::Refused(refusal))
        }
    }
}

fn named<'a>(metadata: &'a [(&str, &str)]) -> impl Iterator<Item = (String, String)> + 'a {
    metadata.iter().map(|(name, value)| (format!("metadata[{name}]"), (*value).to_owned()))
}

fn unanswered(error: reqwest::Error) -> ApiError {
    ApiError::Unanswered(error.into())
}

/// Reads what Stripe says of an error; only the status, where that is nothing.
fn refusal(status: u16, body: &[u8]) -> Refusal {
    #[derive(Deserialize)]
    struct Body {
        error: Refusal,
    }
    let said = serde_json::from_slice(body).map_or_else(|_| Refusal::default(), |body: Body| body.error);
    Refusal { status, ..said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_later_is_told_from_what_never_will() {
        for (status, body, passes, of_the_card) in [
            (
                402,
                r#"{"error": {"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor"}}"#,
                false,
                true,
            ),
            (402, r#"{"error": {"type": "invalid_request_error", "code": "card_declined"}}"#, false, true),
            (400, r#"{"error": {"type": "invalid_request_error", "code": "amount_too_small"}}"#, false, false),
            (404, r#"{"error": {"type": "invalid_request_error", "code": "resource_missing"}}"#, false, false),
            (400, r#"{"error": {"type": "idempotency_error"}}"#, true, false),
            (400, r#"{"error": {"type": "invalid_request_error", "code": "lock_timeout"}}"#, true, false),
            (401, r#"{"error": {"type": "invalid_request_error"}}"#, true, false),
            (409, "", true, false),
            (429, r#"{"error": {"code": "rate_limit"}}"#, true, false),
            (500, r#"{"error": {"type": "api_error"}}"#, true, false),
            (503, "<html>", true, false),
            (302, "", true, false),
        ] {
            let refusal = refusal(status, body.as_bytes());
            assert_eq!((refusal.may_pass(), refusal.is_of_the_card()), (passes, of_the_card), "{status} {body}");
        }
        let body =
            br#"{"error": {"code": "resource_missing", "param": "payment_method", "message": "No such pm_secret"}}"#;
        let shown = refusal(404, body).to_string();
        assert_eq!(shown, "HTTP 404 code=resource_missing param=payment_method");
    }
}
