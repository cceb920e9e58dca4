//! The parts of Stripe's HTTP API that souk needs. Distinguishes a refusal from a missing answer.

use std::{collections::HashMap, error::Error, fmt};

use reqwest::{RequestBuilder, StatusCode, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use souk_common::{config::Secret, money::Currency};

use crate::config::StripeSettings;

/// The version of the API that souk requests, independent of the account's default version.
const VERSION: &str = "2024-06-20";
/// The page size of lists: the most that Stripe allows.
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
    /// The id of the intent: `pi_…`.
    pub id: String,
    /// The status of the intent.
    pub status: String,
    /// When the intent was created, in seconds since 1970.
    pub created: i64,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
    /// The error of the last declined try.
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
    /// True if the refund is pending or has succeeded.
    pub fn holds(&self) -> bool {
        !matches!(self.status.as_deref(), Some("failed" | "canceled"))
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    has_more: bool,
}

/// Stripe's error object, about a refused request or a card.
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
    /// A message for the customer, if the error is about the card.
    #[serde(default)]
    pub message: Option<String>,
}

impl Refusal {
    /// True if the error has this code.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// True if the error is about the card.
    pub fn is_of_the_card(&self) -> bool {
        self.status == StatusCode::PAYMENT_REQUIRED || self.kind.as_deref() == Some("card_error")
    }

    /// True if the same request may succeed later. Then the reason is not the content of the request but its time (409,
    /// 429, a lock, another request with the same key) or the credentials (401, 403).
    fn may_pass(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        !(400..500).contains(&self.status)
            || matches!(self.status, 401 | 403 | 409 | 424 | 429)
            || matches!(code, "lock_timeout" | "rate_limit" | "idempotency_key_in_use")
            || matches!(self.kind.as_deref(), Some("api_error" | "idempotency_error"))
    }
}

/// Omits Stripe's message, which may repeat the content of the request.
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

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Stripe refused the request permanently.
    #[error("Stripe refuses: {0}")]
    Refused(Refusal),
    /// It is unknown whether the request took effect, or it may succeed when it is retried.
    #[error("no answer from Stripe: {0}")]
    Unanswered(#[source] Box<dyn Error + Send + Sync>),
}

impl Api {
    /// Creates a client. It connects on the first request.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: &StripeSettings) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("souk/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let base = settings.api_base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, key: settings.api_key.clone() })
    }

    /// Creates an intent with this payment method and manual capture. It holds no money yet.
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

    /// Reads an intent.
    pub async fn intent(&self, id: &str) -> Result<Intent, ApiError> {
        self.send(self.http.get(self.url(&format!("payment_intents/{id}")))).await
    }

    /// Confirms, captures or cancels an intent. Each has an effect only once, so a caller can retry.
    pub async fn act(&self, id: &str, action: &str) -> Result<Intent, ApiError> {
        self.send(self.http.post(self.url(&format!("payment_intents/{id}/{action}")))).await
    }

    /// The intents created since a time in seconds since 1970. They include those of other installations on the
    /// account.
    pub async fn intents_since(&self, oldest: i64) -> Result<Vec<Intent>, ApiError> {
        // The list is newest first: after a page without intents of this period, there are no more.
        let of_the_time = |intent: &Intent| intent.created >= oldest;
        let path = self.url("payment_intents");
        self.list(&path, &[], |page| page.iter().any(of_the_time), |intent: &Intent| &intent.id).await
    }

    /// The refunds of an intent.
    pub async fn refunds(&self, intent: &str) -> Result<Vec<Refund>, ApiError> {
        let path = self.url("refunds");
        self.list(&path, &[("payment_intent", intent)], |_| true, |refund: &Refund| &refund.id).await
    }

    /// Creates a refund.
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

/// Reads Stripe's error object. If the body has none, the refusal has only the status.
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
    fn temporary_errors_are_distinguished_from_permanent_ones() {
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
