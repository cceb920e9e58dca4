//! Buyers: each takes the number of the next order, carries out the plan of the order, and stores every response.

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

/// The data that all buyers share.
pub struct Market<'a> {
    /// The name of the run, which is part of request ids.
    pub run: String,
    /// The seed of the random choices.
    pub seed: u64,
    /// The resource names of the products.
    pub products: Vec<String>,
    /// A staff account, which records returns.
    pub staff: &'a Api,
    /// The payment token of all orders, if the provider is not the simulated one.
    pub token: Option<String>,
    /// The maximum number of orders to place.
    pub limit: Option<u64>,
    /// Cancelled when no more orders should be begun: at the end, or by a signal.
    pub stop: CancellationToken,
    next: AtomicU64,
    longest: AtomicU64,
}

impl<'a> Market<'a> {
    /// A market without purchases. The signal stops it.
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

    /// The number of orders begun.
    pub fn begun(&self) -> u64 {
        let begun = self.next.load(Ordering::Relaxed);
        self.limit.map_or(begun, |limit| begun.min(limit))
    }

    /// The longest time that a buyer waited for a response, including repeated attempts.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }

    /// Places orders until the end.
    pub async fn buy(&self, buyer: &Api) -> Vec<Purchase> {
        let mut purchases = Vec::new();
        while !self.stop.is_cancelled() {
            match self.next(buyer).await {
                Some(one) => purchases.push(one),
                // Stop while other buyers still have requests in flight, so that the last kill hits them.
                None => self.stop.cancel(),
            }
        }
        purchases
    }

    /// Places the next order; `None` if the limit is reached.
    pub async fn next(&self, buyer: &Api) -> Option<Purchase> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.limit.is_some_and(|limit| number >= limit) {
            return None;
        }
        Some(self.order(buyer, number).await)
    }

    /// Places the order with this number, and carries out its plan.
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

    /// Sends several copies of a request at once.
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

/// The reasons for repeated calls of all callers, with the number of repetitions.
pub fn repeated<'a>(callers: impl IntoIterator<Item = &'a Api>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (why, times) in callers.into_iter().flat_map(Api::repeated) {
        *sum.entry(why).or_default() += times;
    }
    sum
}
