//! A shop with payments at Stripe, and Stripe's own records.

use std::collections::BTreeMap;

use serde_json::Value;
use souk_common::{error::Reason, ids::OrderId, money::Money};
use souk_proto::order::v1::{Order, order::payment::State as Payment};
use souk_testkit::{
    db::Engine,
    proxy::Proxy,
    stripe::{API_KEY, Localstripe},
};

use crate::harness::{Souk, order_for, refused};

pub const APPROVED: &str = "pm_card_visa";
pub const DECLINED: &str = "pm_card_chargeCustomerFail";
pub const WEBHOOK_SECRET: &str = "whsec_of_the_tests";

pub struct Shop {
    pub souk: Souk,
    /// The proxy through which the order service calls Stripe.
    pub line: Proxy,
    pub stripe: Localstripe,
    http: reqwest::Client,
}

/// An intent in Stripe's records.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: String,
    pub order: String,
    pub status: String,
    pub amount: i64,
    pub currency: String,
    /// Whether its money was captured.
    pub captured: bool,
}

/// A shop on each engine, each with its own Stripe.
pub async fn shops(settings: &[(&str, &str)]) -> [Shop; 2] {
    [Shop::start(Engine::Sqlite, settings).await, Shop::start(Engine::Postgres, settings).await]
}

impl Shop {
    async fn start(engine: Engine, settings: &[(&str, &str)]) -> Self {
        let stripe = Localstripe::start().await;
        let line = Proxy::start(stripe.address()).await;
        let base = format!("http://{}", line.address());
        let paid_there = [
            ("PAYMENT__PROVIDER", "stripe"),
            ("PAYMENT__STRIPE__API_KEY", API_KEY),
            ("PAYMENT__STRIPE__API_BASE", &base),
            ("PAYMENT__STRIPE__WEBHOOK_SECRET", WEBHOOK_SECRET),
        ];
        let souk = Box::pin(Souk::start(engine, &[&paid_there, settings].concat())).await;
        Self { souk, line, stripe, http: reqwest::Client::new() }
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}/{path}", self.stripe.address());
        let response = self.http.get(url).bearer_auth(API_KEY).send().await.unwrap();
        response.error_for_status().unwrap().json().await.unwrap()
    }

    /// Calls Stripe behind souk's back.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let url = format!("http://{}/{path}", self.stripe.address());
        let response = self.http.post(url).bearer_auth(API_KEY).form(form).send().await.unwrap();
        let text = response.error_for_status().unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Places an order whose money Stripe holds, while every response about that is lost. Returns the order's name.
    pub async fn unconfirmed(&self, product: &str, quantity: i64) -> String {
        let souk = &self.souk;
        (0..1000).for_each(|_| self.line.lose_answer("/confirm HTTP"));
        let request = order_for(&[(product, quantity)], APPROVED);
        refused(souk.place(&souk.ada, request).await, Reason::ServiceUnavailable);
        souk.all().await[0].name.clone()
    }

    /// A payment method with this card number.
    pub async fn card(&self, number: &str) -> String {
        let form = [
            ("type", "card"),
            ("card[number]", number),
            ("card[exp_month]", "12"),
            ("card[exp_year]", "2035"),
            ("card[cvc]", "123"),
        ];
        self.post("v1/payment_methods", &form).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn intent(&self, id: &str) -> Intent {
        read(&self.get(&format!("v1/payment_intents/{id}")).await)
    }

    /// All intents that were ever made.
    pub async fn intents(&self) -> Vec<Intent> {
        self.get("v1/payment_intents?limit=1000").await["data"].as_array().unwrap().iter().map(read).collect()
    }

    /// The intents of an order.
    pub async fn intents_of(&self, order: &str) -> Vec<Intent> {
        let key = key_of(order);
        self.intents().await.into_iter().filter(|intent| intent.order == key).collect()
    }

    /// The refunds of an intent, oldest first.
    pub async fn refunds(&self, intent: &str) -> Vec<i64> {
        let listed = self.get(&format!("v1/refunds?limit=1000&payment_intent={intent}")).await;
        let mut refunds: Vec<_> = listed["data"].as_array().unwrap().iter().collect();
        // Refunds of the same second are in the order of their creation.
        refunds.sort_by_key(|refund| refund["created"].as_i64());
        refunds.iter().map(|refund| refund["amount"].as_i64().unwrap()).collect()
    }

    /// Checks that Stripe captured and refunded for each order what souk says, without what operators settled, and
    /// holds no other money.
    pub async fn agreed(&self) {
        let mut kept = BTreeMap::<String, i64>::new();
        for intent in self.intents().await {
            assert_ne!(intent.status, "requires_capture", "money is held: {intent:?}");
            if intent.captured {
                let refunded: i64 = self.refunds(&intent.id).await.iter().sum();
                assert!(
                    kept.insert(intent.order.clone(), intent.amount - refunded).is_none(),
                    "taken twice: {intent:?}"
                );
            }
        }
        let orders = self.souk.settled().await;
        let payment = |order: &Order| order.payment.clone().unwrap_or_default();
        let paid = |order: &&Order| {
            let state = order.payment.as_ref().map(|payment| payment.state());
            let taken = matches!(state, Some(Payment::Captured | Payment::Refunded));
            taken && !payment(order).settled_manually && minor(order.total.as_ref()) > 0
        };
        let ours: BTreeMap<String, i64> = orders
            .iter()
            .filter(paid)
            .map(|order| {
                let refunded = minor(order.refunded_total.as_ref()) - minor(payment(order).refunded_manually.as_ref());
                (key_of(&order.name), minor(order.total.as_ref()) - refunded)
            })
            .collect();
        assert_eq!(kept, ours, "{}", self.souk.engine);
        self.souk.verified().await;
    }
}

fn minor(money: Option<&souk_proto::google::r#type::Money>) -> i64 {
    money.map_or(0, |money| Money::try_from(money.clone()).unwrap().minor)
}

/// The payment key of an order in souk.
pub fn key_of(order: &str) -> String {
    OrderId::parse_name(order).unwrap().uuid().simple().to_string()
}

fn read(intent: &Value) -> Intent {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Intent {
        id: text(&intent["id"]),
        order: text(&intent["metadata"]["souk_order"]),
        status: text(&intent["status"]),
        amount: intent["amount"].as_i64().unwrap(),
        currency: text(&intent["currency"]),
        captured: intent["latest_charge"]["status"] == "succeeded" && intent["latest_charge"]["captured"] == true,
    }
}
