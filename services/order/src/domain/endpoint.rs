//! Endpoints: addresses that want events, and the secrets that these are signed with.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use souk_common::{
    config::Secret,
    ids::{EventId, WebhookEndpointId},
};

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";

/// An address that wants events.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: WebhookEndpointId,
    /// Where events are posted.
    pub url: String,
    /// What it is for.
    pub description: String,
    /// The types of events that it is for; all where empty.
    pub event_types: Vec<String>,
    /// What events are signed with.
    pub secrets: Secrets,
    /// Since when and why nothing is sent.
    pub disabled: Option<(DateTime<Utc>, DisableReason)>,
    /// Since when every try has failed.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// Counts its changes.
    pub version: i64,
}

/// Why nothing is sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableReason {
    /// An administrator wants it so.
    Administrator,
    /// It answered 410.
    Gone,
    /// Every try has failed for long.
    Failing,
}

/// The secret, and the one before it for a while.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The secret.
    pub current: Secret,
    /// The one before, and until when it is used as well.
    pub previous: Option<(Secret, DateTime<Utc>)>,
}

/// What an administrator changes of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Its new address.
    pub url: Option<String>,
    /// What it is for from now on.
    pub description: Option<String>,
    /// The types that it is for from now on.
    pub event_types: Option<Vec<String>>,
    /// Whether nothing is sent.
    pub disabled: Option<bool>,
}

impl Endpoint {
    /// A new one, with a new secret.
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

    /// Whether it is for events of this type.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.event_types.is_empty() || self.event_types.iter().any(|wanted| wanted == kind)
    }

    /// Changes with every change.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// Takes over what an administrator wants. Whether what waited for it may continue now.
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
            // It is another address, or has been seen to: it gets its days again.
            self.failing_since = None;
        }
        self.changed(now);
        enabled || moved
    }

    /// Gives it a new secret; the present one continues being used as well until a time.
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
    /// The header `webhook-signature`: one signature for each secret in use.
    #[must_use]
    pub fn signature(&self, event: EventId, now: DateTime<Utc>, body: &str) -> String {
        let previous = self.previous.iter().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
        let signed = std::iter::once(&self.current).chain(previous).map(|secret| sign(secret, event, now, body));
        signed.collect::<Vec<_>>().join(" ")
    }
}

fn sign(secret: &Secret, event: EventId, now: DateTime<Utc>, body: &str) -> String {
    let text = secret.expose();
    // It was made below; a text that is no base64 would be its own key, which no receiver takes.
    let key = STANDARD.decode(text.trim_start_matches(PREFIX)).unwrap_or_else(|_| text.as_bytes().to_vec());
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(format!("{event}.{}.", now.timestamp()).as_bytes());
    context.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// 256 random bits.
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
        // printf '%s' 'evt_0….1614265330.{…}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64
        assert_eq!(signature, "v1,8Y/5afuU9v1suQAfoMPSeHPVEWKuu9TJ7KRZ0D5JIg0=");
    }

    #[test]
    fn for_a_while_there_are_two_signatures() {
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
    fn types_are_matched_to_the_letter() {
        let mut endpoint = endpoint();
        assert!(endpoint.wants("order.placed"));
        endpoint.event_types = vec!["order.confirmed".into()];
        assert!(endpoint.wants("order.confirmed") && !endpoint.wants("order.confirmed_again"));
    }

    #[test]
    fn being_enabled_again_begins_its_days_anew() {
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
