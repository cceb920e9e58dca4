//! Webhooks through the gateway: early, late, repeated, forged and false ones, and those that Stripe itself sends.

use std::time::Duration;

use aws_lc_rs::hmac;
use chrono::Utc;
use serde_json::{Value, json};
use souk_proto::order::v1::order::State;
use souk_testkit::wait;

use super::peer::{APPROVED, DECLINED, Shop, WEBHOOK_SECRET, shops};
use crate::{
    harness::{SOON, order_for},
    verify::tamper,
};

/// A gateway in front of a shop.
pub struct Door {
    url: String,
    http: reqwest::Client,
}

impl Door {
    pub async fn of(shop: &Shop) -> Self {
        let url = format!("http://{}/v1/payments/stripe:webhook", shop.souk.gateway().await);
        let door = Self { url, http: reqwest::Client::new() };
        wait::until(SOON, "the gateway to pass webhooks on", async || {
            let answer = door.deliver(b"{}", "t=0,v1=00").await;
            answer.0 == 400 && answer.1["reason"] == "WEBHOOK_SIGNATURE_INVALID"
        })
        .await;
        door
    }

    async fn deliver(&self, body: &[u8], signature: &str) -> (u16, Value) {
        let request = self.http.post(&self.url).header("stripe-signature", signature).body(body.to_vec());
        let response = request.header("content-type", "application/json; charset=utf-8").send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Delivers an event as Stripe would.
    pub async fn tell(&self, event: &Value) -> (u16, Value) {
        let body = serde_json::to_vec_pretty(event).unwrap();
        self.deliver(&body, &sign(&body, Utc::now().timestamp(), WEBHOOK_SECRET)).await
    }
}

fn sign(body: &[u8], time: i64, secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, &[format!("{time}.").as_bytes(), body].concat());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={hex}")
}

pub fn event(id: &str, kind: &str, intent: &str) -> Value {
    let object = json!({"id": intent, "object": "payment_intent", "status": "as good as any"});
    json!({"id": id, "object": "event", "type": kind, "data": {"object": object}})
}

#[tokio::test(flavor = "multi_thread")]
async fn early_late_repeated_and_false_webhooks_change_nothing() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        let lantern = souk.stocked("LANTERN", 5).await;
        // Before there is an order.
        assert_eq!(door.tell(&event("evt_early", "payment_intent.succeeded", "pi_not_yet")).await, (200, json!({})));
        let paid = souk.place(&souk.ada, order_for(&[(&lantern, 2)], APPROVED)).await.unwrap();
        let declined = souk.place(&souk.ada, order_for(&[(&lantern, 2)], DECLINED)).await.unwrap();
        let intents = shop.intents().await;
        let asked = shop.stripe.log().matches("/cancel").count();
        for (index, intent) in intents.iter().enumerate() {
            for kind in ["succeeded", "payment_failed", "canceled", "amount_capturable_updated", "no_such"] {
                let event = event(&format!("evt_{index}_{kind}"), &format!("payment_intent.{kind}"), &intent.id);
                for _ in 0..2 {
                    assert_eq!(door.tell(&event).await, (200, json!({})), "{kind}");
                }
            }
        }
        // The repeated events were ignored: only the first ones made souk ask Stripe about the rejected order.
        assert_eq!(shop.stripe.log().matches("/cancel").count(), asked + 5);
        let refund = json!({"id": "re_1", "object": "refund", "payment_intent": intents[0].id, "amount": 1});
        for (id, kind, object) in [
            ("evt_refund", "charge.refunded", refund),
            ("evt_customer", "customer.created", json!({"id": "cus_1", "object": "customer"})),
        ] {
            let event = json!({"id": id, "type": kind, "data": {"object": object}});
            assert_eq!(door.tell(&event).await, (200, json!({})));
        }
        for order in [&paid, &declined] {
            assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), *order);
        }
        assert_eq!(souk.sums(&lantern).await, (3, 3));
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_webhooks_signed_by_stripe_are_accepted() {
    for shop in shops(&[]).await {
        let door = Door::of(&shop).await;
        let event = event("evt_1", "payment_intent.succeeded", "pi_1");
        let body = serde_json::to_vec_pretty(&event).unwrap();
        let now = Utc::now().timestamp();
        let refusal = |(status, problem): (u16, Value)| (status, problem["reason"].as_str().unwrap().to_owned());
        let forged = [
            sign(&body, now, "whsec_of_someone_else"),
            sign(b"another body", now, WEBHOOK_SECRET),
            sign(&body, now - 3600, WEBHOOK_SECRET),
            sign(&body, now + 3600, WEBHOOK_SECRET),
            "nonsense".to_owned(),
        ];
        for signature in forged {
            let answer = refusal(door.deliver(&body, &signature).await);
            assert_eq!(answer, (400, "WEBHOOK_SIGNATURE_INVALID".into()), "{signature}");
        }
        // The signature covers the bytes: other JSON with the same meaning has another signature.
        let same = serde_json::to_vec(&event).unwrap();
        let answer = refusal(door.deliver(&same, &sign(&body, now, WEBHOOK_SECRET)).await);
        assert_eq!(answer, (400, "WEBHOOK_SIGNATURE_INVALID".into()));
        let answer = refusal(door.deliver(&body, "").await);
        assert_eq!(answer, (400, "FIELD_INVALID".into()));
        let answer = refusal(door.deliver(b"[]", &sign(b"[]", now, WEBHOOK_SECRET)).await);
        assert_eq!(answer, (400, "MALFORMED_REQUEST".into()));
        assert_eq!(door.deliver(&body, &sign(&body, now, WEBHOOK_SECRET)).await, (200, json!({})));
        let elsewhere = Door { url: door.url.replace("stripe:", "simulated:"), http: door.http.clone() };
        let answer = refusal(elsewhere.deliver(&body, &sign(&body, now, WEBHOOK_SECRET)).await);
        assert_eq!(answer, (404, "RESOURCE_NOT_FOUND".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_makes_a_waiting_order_continue() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        let lantern = souk.stocked("LANTERN", 5).await;
        let name = shop.unconfirmed(&lantern, 2).await;
        // Its next try is far in the future.
        let later = "UPDATE orders SET due_at = '2100-01-01 00:00:00+00:00' WHERE lease IS NULL AND state = 'PENDING'";
        wait::until(SOON, "the order to wait", async || tamper(souk, later).await == 1).await;
        shop.line.restore();
        let intent = shop.intents_of(&name).await[0].id.clone();
        let told = event("evt_1", "payment_intent.amount_capturable_updated", &intent);
        let body = serde_json::to_vec(&told).unwrap();
        let forged = sign(&body, Utc::now().timestamp(), "whsec_of_someone_else");
        assert_eq!(door.deliver(&body, &forged).await.0, 400);
        assert_eq!(souk.get(&souk.ada, &name).await.unwrap().state(), State::Pending);
        assert_eq!(door.tell(&told).await, (200, json!({})));
        let orders = souk.settled().await;
        assert_eq!(orders[0].state(), State::Confirmed);
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_stripe_itself_sends_are_accepted() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        shop.post("_config/webhooks/souk", &[("url", &door.url), ("secret", WEBHOOK_SECRET)]).await;
        let lantern = souk.stocked("LANTERN", 50).await;
        let tokens = [APPROVED, DECLINED];
        // They arrive a second later: some while later orders are placed, others after all.
        for index in 0..12 {
            souk.place(&souk.ada, order_for(&[(&lantern, 1)], tokens[index % 2])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        wait::until(SOON, "all webhooks to be delivered", async || {
            let log = shop.stripe.log();
            assert!(!log.contains("failed with response code"), "{log}");
            log.matches("\" successfully delivered").count() == 12
        })
        .await;
        shop.agreed().await;
    }
}
