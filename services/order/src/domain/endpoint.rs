//! Webhook endpoints: URLs that events are posted to, and the secrets that sign these events.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use souk_common::{
    config::Secret,
    ids::{EventId, WebhookEndpointId},
};

/// The prefix of a secret's text form.
const PREFIX: &str = "whsec_";

/// A webhook endpoint: a URL that events are posted to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The endpoint's id.
    pub id: WebhookEndpointId,
    /// The URL that events are posted to.
    pub url: String,
    /// The merchant's description of the endpoint.
    pub description: String,
    /// The event types that the endpoint subscribes to. Empty: all types.
    pub event_types: Vec<String>,
    /// The secrets that events are signed with.
    pub secrets: Secrets,
    /// When and why the endpoint was disabled; `None` if it is enabled.
    pub disabled: Option<(DateTime<Utc>, DisableReason)>,
    /// The time since when every try has failed; `None` if the last one succeeded.
    pub failing_since: Option<DateTime<Utc>>,
    /// When the endpoint was created.
    pub create_time: DateTime<Utc>,
    /// When the endpoint last changed.
    pub update_time: DateTime<Utc>,
    /// The version of the endpoint: counts its changes.
    pub version: i64,
}

/// Why an endpoint is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableReason {
    /// An administrator disabled it.
    Administrator,
    /// The endpoint answered with 410 (Gone).
    Gone,
    /// All tries have failed for a long time.
    Failing,
}

/// The current secret, and the previous one for a time after a rotation.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The current secret.
    pub current: Secret,
    /// The previous secret, and the end of the time in which it is also used.
    pub previous: Option<(Secret, DateTime<Utc>)>,
}

/// An administrator's change of an endpoint. `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The new URL.
    pub url: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// The new event types.
    pub event_types: Option<Vec<String>>,
    /// True to disable the endpoint, false to enable it.
    pub disabled: Option<bool>,
}

impl Endpoint {
    /// Creates an endpoint with a new secret.
    #[must_use]
    pub fn new(url: String, description: String, event_types: Vec<String>, disabled: bool, now: DateTime<Utc>) -> Self {
        Self {
            id: WebhookEndpointId::new(),
            url,
            description,
            event_types,
            secrets: Secrets { current: new_secret(), previous: None },
            disabled: disabled.then_some((now, DisableReason::Administrator)),
            failing_since: None,
            create_time: now,
            update_time: now,
            version: 1,
        }
    }

    /// True if the endpoint subscribes to events of this type.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.event_types.is_empty() || self.event_types.iter().any(|wanted| wanted == kind)
    }

    /// The etag. It changes with every change of the endpoint.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// Applies an administrator's change. Returns true if waiting deliveries may be tried now.
    pub fn change(&mut self, change: Change, now: DateTime<Utc>) -> bool {
        let enabled = change.disabled == Some(false) && self.disabled.is_some();
        let moved = change.url.as_ref().is_some_and(|url| *url != self.url);
        if let Some(url) = change.url {
            self.url = url;
        }
        if let Some(description) = change.description {
            self.description = description;
        }
        if let Some(event_types) = change.event_types {
            self.event_types = event_types;
        }
        match change.disabled {
            Some(true) if self.disabled.is_none() => self.disabled = Some((now, DisableReason::Administrator)),
            Some(false) => self.disabled = None,
            _ => {}
        }
        if enabled || moved {
            // The URL is new or has been repaired, so the time of failures begins again.
            self.failing_since = None;
        }
        self.changed(now);
        enabled || moved
    }

    /// Creates a new secret. The current one is also used until the given time.
    pub fn rotate(&mut self, until: DateTime<Utc>, now: DateTime<Utc>) {
        let previous = std::mem::replace(&mut self.secrets.current, new_secret());
        self.secrets.previous = Some((previous, until));
        self.changed(now);
    }

    fn changed(&mut self, now: DateTime<Utc>) {
        self.update_time = now;
        self.version += 1;
    }
}

impl Secrets {
    /// The value of the header `webhook-signature`: one signature for each secret in use.
    #[must_use]
    pub fn signature(&self, event: EventId, now: DateTime<Utc>, body: &str) -> String {
        let previous = self.previous.iter().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
        let signed = std::iter::once(&self.current).chain(previous).map(|secret| sign(secret, event, now, body));
        signed.collect::<Vec<_>>().join(" ")
    }
}

fn sign(secret: &Secret, event: EventId, now: DateTime<Utc>, body: &str) -> String {
    let text = secret.expose();
    // souk generated the secret, so it is valid base64. Any other text would be used as the key itself, and receivers
    // would reject the signature.
    let key = STANDARD.decode(text.trim_start_matches(PREFIX)).unwrap_or_else(|_| text.as_bytes().to_vec());
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(format!("{event}.{}.", now.timestamp()).as_bytes());
    context.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// Generates a secret of 256 random bits.
fn new_secret() -> Secret {
    Secret::new(format!("{PREFIX}{}", STANDARD.encode(rand::random::<[u8; 32]>())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::TimeDelta;

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new("https://shop.example/".into(), String::new(), Vec::new(), false, now())
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_614_265_330, 0).unwrap()
    }

    #[test]
    fn a_signature_is_the_keyed_digest_of_id_time_and_body() {
        let secrets = Secrets { current: Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), previous: None };
        let event = EventId::from_uuid(uuid::Uuid::nil());
        let signature = secrets.signature(event, now(), r#"{"test": 2432232314}"#);
        // Generated with:
        // printf '%s' 'evt_0….1614265330.{…}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64
        assert_eq!(signature, "v1,8Y/5afuU9v1suQAfoMPSeHPVEWKuu9TJ7KRZ0D5JIg0=");
    }

    #[test]
    fn after_a_rotation_deliveries_have_two_signatures_for_a_time() {
        let mut endpoint = endpoint();
        let before = endpoint.secrets.signature(EventId::from_uuid(uuid::Uuid::nil()), now(), "{}");
        endpoint.rotate(now() + TimeDelta::hours(1), now());
        let sign = |now| endpoint.secrets.signature(EventId::from_uuid(uuid::Uuid::nil()), now, "{}");
        let both = sign(now());
        let (new, old) = both.split_once(' ').unwrap();
        assert_eq!(old, before);
        assert_ne!(new, before);
        assert!(!sign(now() + TimeDelta::hours(1)).contains(' '));
    }

    #[test]
    fn event_types_are_matched_exactly() {
        let mut endpoint = endpoint();
        assert!(endpoint.wants("order.placed"));
        endpoint.event_types = vec!["order.confirmed".into()];
        assert!(endpoint.wants("order.confirmed") && !endpoint.wants("order.confirmed_again"));
    }

    #[test]
    fn enabling_an_endpoint_restarts_its_time_until_it_is_disabled() {
        let mut endpoint = endpoint();
        endpoint.failing_since = Some(now());
        endpoint.disabled = Some((now(), DisableReason::Failing));
        let off = Change { disabled: Some(true), ..Change::default() };
        assert!(!endpoint.change(off, now()));
        assert_eq!(endpoint.disabled.unwrap().1, DisableReason::Failing);
        assert!(endpoint.change(Change { disabled: Some(false), ..Change::default() }, now()));
        assert_eq!((endpoint.disabled, endpoint.failing_since, endpoint.version), (None, None, 3));
    }
}
