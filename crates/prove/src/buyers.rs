//! Buyers: each takes the next order's number, does what its plan says, and keeps every answer.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use souk_import::api::Api;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    answers::{Order, Purchase, Reply, Return, reply},
    plan::Plan,
};

/// What all buyers share.
pub struct Market<'a> {
    /// Names the run in request ids.
    pub run: String,
    /// Start of the choices.
    pub seed: u64,
    /// Resource names of the products.
    pub products: Vec<String>,
    /// Who takes goods back.
    pub staff: &'a Api,
    /// Pays everything, where the provider is not the simulated one.
    pub token: Option<String>,
    /// How many orders to place at most.
    pub limit: Option<u64>,
    /// When no more orders are begun: at the end, or with the signal to stop.
    pub stop: CancellationToken,
    next: AtomicU64,
    longest: AtomicU64,
}

impl<'a> Market<'a> {
    /// One that nothing was bought on yet, open until the signal.
    pub fn new(
        (run, seed): (String, u64),
        products: Vec<String>,
        staff: &'a Api,
        token: Option<String>,
        limit: Option<u64>,
        signal: &CancellationToken,
    ) -> Self {
        let (next, longest) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { run, seed, products, staff, token, limit, stop: signal.child_token(), next, longest }
    }

    /// Orders begun.
    pub fn begun(&self) -> u64 {
        let begun = self.next.load(Ordering::Relaxed);
        self.limit.map_or(begun, |limit| begun.min(limit))
    }

    /// The longest that anyone waited for an answer, all tries counted.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }

    /// Buys until the end.
    pub async fn buy(&self, buyer: &Api) -> Vec<Purchase> {
        let mut purchases = Vec::new();
        while !self.stop.is_cancelled() {
            match self.next(buyer).await {
                Some(one) => purchases.push(one),
                // The others are still at it: the last kill shall find them so.
                None => self.stop.cancel(),
            }
        }
        purchases
    }

    /// Places the next order; `None` if there are enough.
    pub async fn next(&self, buyer: &Api) -> Option<Purchase> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.limit.is_some_and(|limit| number >= limit) {
            return None;
        }
        Some(self.order(buyer, number).await)
    }

    /// Places one order by its number, and does to it what its plan says.
    async fn order(&self, buyer: &Api, number: u64) -> Purchase {
        let plan = Plan::of(self.seed, number, self.products.len());
        let request_id = format!("prove:{}:{number}", self.run);
        let items: Vec<(String, i64)> =
            plan.items.iter().map(|(product, pieces)| (self.products[*product].clone(), *pieces)).collect();
        let lines: Vec<Value> = items
            .iter()
            .map(|(product, pieces)| json!({ "product": product, "quantity": pieces.to_string() }))
            .collect();
        let body = json!({
            "requestId": request_id,
            "items": lines,
            // The address has the request id, so that an order can be matched even if its response was lost.
            "shippingAddress": { "recipient": "souk prove", "addressLines": [request_id], "regionCode": "ZZ" },
            "paymentToken": self.token.as_deref().unwrap_or(plan.token),
        });
        let mut placed: Vec<Reply<Order>> = self.send(buyer, "/v1/orders", &body, plan.copies).await;
        let confirmed = placed.iter().flatten().find(|order| order.state == "STATE_CONFIRMED");
        let (mut cancelled, mut returned) = (Vec::new(), None);
        if let Some(order) = confirmed {
            let cancel = async {
                let path = format!("/v1/{}:cancel", order.name);
                self.send(buyer, &path, &json!({ "reason": "souk prove" }), plan.cancels).await
            };
            let back = async {
                let back = plan.back?;
                let body = json!({
                    "requestId": format!("{request_id}:return"),
                    "items": [{ "lineNumber": back.line, "quantity": back.pieces.to_string() }],
                    "reason": "souk prove",
                });
                let path = format!("/v1/{}:returnItems", order.name);
                let replies: Vec<Reply<Return>> = self.send(self.staff, &path, &body, back.copies).await;
                Some((back.line, back.pieces, replies))
            };
            (cancelled, returned) = tokio::join!(cancel, back);
        }
        if plan.again {
            placed.extend(self.send(buyer, "/v1/orders", &body, 1).await);
        }
        Purchase { request_id, items, placed, cancelled, returned }
    }

    /// Sends the same so many times at once.
    async fn send<T: DeserializeOwned>(&self, api: &Api, path: &str, body: &Value, copies: usize) -> Vec<Reply<T>> {
        join_all((0..copies).map(|_| async {
            let asked = Instant::now();
            let answer = reply(api.post(path, body).await);
            let waited = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.longest.fetch_max(waited, Ordering::Relaxed);
            answer
        }))
        .await
    }
}

/// Why calls were repeated, and how often, over all callers.
pub fn repeated<'a>(callers: impl IntoIterator<Item = &'a Api>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (why, times) in callers.into_iter().flat_map(Api::repeated) {
        *sum.entry(why).or_default() += times;
    }
    sum
}
