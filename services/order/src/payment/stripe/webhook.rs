//! Stripe's webhooks: checks signatures, and finds the payment of an event.

use aws_lc_rs::hmac;
use serde::Deserialize;

use crate::{config::StripeSettings, payment::WebhookError};

/// Checks the header `Stripe-Signature`: `t=1700000000,v1=hex,…`, where each `v1` is an HMAC-SHA256 of the time and the
/// body. The header has several signatures while a secret is being replaced.
///
/// # Errors
/// If the signature is wrong or too old; the error says why. `now` is in seconds since 1970.
pub fn verify(body: &[u8], header: &str, settings: &StripeSettings, now: i64) -> Result<(), WebhookError> {
    let mut time = None;
    let mut signatures = Vec::new();
    for (name, value) in header.split(',').filter_map(|part| part.trim().split_once('=')) {
        match name {
            "t" => time = Some(value),
            "v1" => signatures.extend(bytes(value)),
            _ => {}
        }
    }
    let (Some(text), Some(time)) = (time, time.and_then(|time| time.parse::<i64>().ok())) else {
        return Err(WebhookError::Signature("has no time: it must be of the form t=…,v1=…"));
    };
    if signatures.is_empty() {
        return Err(WebhookError::Signature("has no v1: it must be of the form t=…,v1=…"));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, settings.webhook_secret.expose().as_bytes());
    let signed = [text.as_bytes(), b".", body].concat();
    // The comparison takes constant time.
    if !signatures.iter().any(|signature| hmac::verify(&key, &signed, signature).is_ok()) {
        return Err(WebhookError::Signature("is not that of this body with the secret that is set"));
    }
    if now.abs_diff(time) > settings.webhook_tolerance.as_secs() {
        return Err(WebhookError::Signature("is too old, or from a clock that is wrong"));
    }
    Ok(())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok()).collect()
}

/// The fields of a Stripe event that souk reads.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// The id of the event: `evt_…`.
    pub id: String,
    /// The type of the event.
    #[serde(rename = "type")]
    pub kind: String,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    object: Object,
}

/// The object of the event.
#[derive(Debug, Deserialize)]
struct Object {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    object: Option<String>,
    /// For a charge, refund or dispute: the id of its intent.
    #[serde(default)]
    payment_intent: Option<serde_json::Value>,
}

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// If the body is not an event.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The id of the event's intent, if it has one.
    pub fn intent(&self) -> Option<&str> {
        let object = &self.data.object;
        match object.object.as_deref() {
            Some("payment_intent") => object.id.as_deref(),
            _ => object.payment_intent.as_ref()?.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use souk_common::config::Secret;

    use super::*;

    const BODY: &[u8] = br#"{"id": "evt_1"}"#;

    fn settings() -> StripeSettings {
        StripeSettings {
            api_key: Secret::new("sk_test_12345"),
            webhook_secret: Secret::new("whsec_test"),
            api_base: "https://api.stripe.com".into(),
            timeout: Duration::from_secs(1),
            webhook_tolerance: Duration::from_secs(300),
            installation: "souk".into(),
            reconcile_interval: Duration::from_secs(3600),
            reconcile_after: Duration::from_secs(3600),
        }
    }

    fn fault(header: &str, now: i64) -> String {
        verify(BODY, header, &settings(), now).unwrap_err().to_string()
    }

    #[test]
    fn only_recent_messages_signed_by_stripe_are_accepted() {
        // Generated with Python: hmac.new(b"whsec_test", b'1700000000.{"id": "evt_1"}', "sha256").
        let good = "a0c091828640f0b68061abc7c03981ad1100ff7160c5dba6b656239494a2b537";
        let header = format!("t=1700000000,v1={good}");
        let now = 1_700_000_000;
        verify(BODY, &header, &settings(), now).unwrap();
        verify(BODY, &header, &settings(), now + 300).unwrap();
        verify(BODY, &format!("t=1700000000,v1={},v1={good},v0=x", "00".repeat(32)), &settings(), now).unwrap();
        assert!(verify(b"{}", &header, &settings(), now).is_err());
        assert!(fault(&header, now + 301).contains("too old"));
        assert!(fault(&header, now - 301).contains("too old"));
        assert!(fault(&format!("t=1700000001,v1={good}"), now).contains("is not that of this body"));
        assert!(fault(&format!("t=1700000000,v1={}", &good[..62]), now).contains("is not that of this body"));
        assert!(fault(&format!("t=1700000000,v0={good}"), now).contains("has no v1"));
        assert!(fault("t=1700000000,v1=xyz", now).contains("has no v1"));
        assert!(fault(&format!("t=soon,v1={good}"), now).contains("has no time"));
        assert!(fault("", now).contains("has no time"));
    }

    #[test]
    fn the_payment_intent_is_found_in_every_kind_of_event() {
        let intent = |object: &str| {
            let body = format!(r#"{{"id": "evt_1", "type": "x", "data": {{"object": {object}}}}}"#);
            Event::read(body.as_bytes()).unwrap().intent().map(str::to_owned)
        };
        assert_eq!(intent(r#"{"id": "pi_1", "object": "payment_intent"}"#).as_deref(), Some("pi_1"));
        assert_eq!(intent(r#"{"id": "ch_1", "object": "charge", "payment_intent": "pi_1"}"#).as_deref(), Some("pi_1"));
        assert_eq!(intent(r#"{"id": "cus_1", "object": "customer"}"#), None);
        assert_eq!(intent(r#"{"id": "ch_1", "object": "charge", "payment_intent": null}"#), None);
        assert!(Event::read(b"[]").is_err());
    }
}
