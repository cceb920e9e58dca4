//! One try: posts an event to an endpoint, and reads only the beginning of the response.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::{Client, Response, StatusCode, Url, header, redirect};
use souk_common::error::chain;

use super::{address::Policy, settings::Settings};
use crate::domain::{
    delivery::{Attempt, Delivery},
    endpoint::Endpoint,
};
use crate::store::now;

/// The most bytes of a response that are read. `EXCERPT` is the most characters that are stored.
const READ: usize = 4 << 10;
const EXCERPT: usize = 500;

/// Posts events.
pub(super) struct Sender {
    /// The client, or the reason why there is none. Orders must be accepted even without a client.
    client: Result<Client, String>,
    policy: Policy,
    timeout: Duration,
}

impl Sender {
    pub(super) fn new(settings: &Settings) -> Self {
        let policy = Policy::new(settings);
        let client = client(settings, policy.clone());
        if let Err(error) = &client {
            tracing::warn!(error, "cannot send webhooks");
        }
        Self { client, policy, timeout: settings.timeout }
    }

    /// Makes one try. Also returns the pause that the receiver asks for.
    pub(super) async fn send(&self, endpoint: &Endpoint, delivery: &Delivery) -> (Attempt, Option<Duration>) {
        let (time, began) = (now(), Instant::now());
        let answer = self.post(endpoint, delivery, time).await;
        let mut attempt = Attempt { time, took_ms: 0, code: 0, error: String::new(), excerpt: String::new() };
        let mut wish = None;
        match answer {
            Ok(mut response) => {
                let status = response.status();
                attempt.code = status.as_u16();
                if !status.is_success() {
                    attempt.error = refusal(status);
                    wish = asked_pause(&response, time);
                }
                attempt.excerpt = excerpt(&mut response).await;
            }
            Err(error) => attempt.error = error,
        }
        attempt.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (attempt, wish)
    }

    async fn post(&self, endpoint: &Endpoint, delivery: &Delivery, time: DateTime<Utc>) -> Result<Response, String> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        // Checked again, because the settings may have become stricter since the endpoint was added.
        let url: Url = self.policy.read(&endpoint.url).map_err(|what| format!("the endpoint's address {what}"))?;
        client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", delivery.event.to_string())
            .header("webhook-timestamp", time.timestamp())
            .header("webhook-signature", endpoint.secrets.signature(delivery.event, time, &delivery.body))
            .body(delivery.body.clone())
            .send()
            .await
            .map_err(|error| {
                if error.is_timeout() {
                    format!("no answer within {:?}", self.timeout)
                } else {
                    chain(&error.without_url())
                }
            })
    }
}

fn client(settings: &Settings, policy: Policy) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("souk-webhooks/", env!("CARGO_PKG_VERSION")))
        .timeout(settings.timeout)
        // The target of a redirect is not checked, and the signed body is meant for this endpoint alone.
        .redirect(redirect::Policy::none())
        // A proxy would resolve names by itself, without the check of their addresses.
        .no_proxy()
        .referer(false)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(settings.concurrency_per_endpoint)
        .dns_resolver(policy);
    let authorities = settings.authorities()?;
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(|error| chain(&error))
}

fn refusal(status: StatusCode) -> String {
    match status.is_redirection() {
        true => format!("answered {status}: redirects are not followed"),
        false => format!("answered {status}"),
    }
}

/// The `Retry-After` of a response, if it has one: seconds, or a time.
fn asked_pause(response: &Response, now: DateTime<Utc>) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok(),
    }
}

/// The beginning of the body. If the body breaks off or is late, the result of the try stays the same.
async fn excerpt(response: &mut Response) -> String {
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = READ - read.len();
        read.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    let text = String::from_utf8_lossy(&read);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT).collect::<String>().trim().to_owned()
}
