//! Requests that run all the time during a test, and their results.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{EVERY, NORMAL};
use crate::{
    cluster::Cluster,
    rest::{Answer, Rest, order},
};

/// The number of successes in a row that counts as recovered.
const IN_A_ROW: usize = 4;

/// A request of a probe.
#[derive(Debug, Clone)]
struct Asked {
    what: &'static str,
    began: Instant,
    /// The error of the response, if there is one; `None` while the request runs.
    outcome: Option<Result<(), String>>,
}

/// Sends requests to each service all the time, and records the results.
pub struct Probes {
    pub admin: Rest,
    pub customer: Rest,
    product: String,
    order: String,
    token: &'static str,
    number: AtomicU64,
    asked: Mutex<Vec<Asked>>,
    /// The orders whose confirmation was received.
    pub confirmed: Mutex<Vec<String>>,
    /// Errors that a client cannot act on.
    pub unclear: Mutex<Vec<String>>,
}

const ASKED: [&str; 4] = ["who am I", "stock", "an order", "a new order"];

impl Probes {
    pub async fn new(cluster: &Cluster, token: &'static str) -> Self {
        let admin = cluster.admin().await;
        let customer = Rest::anonymous(&cluster.gateway).customer("ann").await;
        let product = admin.product("PROBED", 100_000).await;
        let first = customer.post("/v1/orders", order("first", &[(&product, 1)], token)).await.ok();
        let order = first["name"].as_str().unwrap().to_owned();
        let (number, asked, confirmed, unclear) = Default::default();
        Self { admin, customer, product, order, token, number, asked, confirmed, unclear }
    }

    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut clock = tokio::time::interval(EVERY);
        while stop.run_until_cancelled(clock.tick()).await.is_some() {
            for what in ASKED {
                let probes = self.clone();
                tasks.spawn(async move { probes.ask(what).await });
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn ask(&self, what: &'static str) {
        let index = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(Asked { what, began: Instant::now(), outcome: None });
            asked.len() - 1
        };
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let get = |client: &Rest, path: String| {
            let client = client.clone();
            async move { client.send(Method::GET, &path, None).await }
        };
        let answer = match what {
            "who am I" => get(&self.customer, "/v1/users/me".to_owned()).await,
            "stock" => get(&self.admin, format!("/v1/{}/stock", self.product)).await,
            "an order" => get(&self.customer, format!("/v1/{}", self.order)).await,
            _ => {
                let body = order(&format!("probe-{number}"), &[(&self.product, 1)], self.token);
                self.customer.send(Method::POST, "/v1/orders", Some(body)).await
            }
        };
        let outcome = match answer {
            Ok(answer) if answer.status.is_success() => {
                if answer.body["state"] == "STATE_CONFIRMED" {
                    self.confirmed.lock().unwrap().push(answer.body["name"].as_str().unwrap().to_owned());
                }
                Ok(())
            }
            Ok(answer) => Err(self.read(&answer)),
            // The gateway's own deadline is shorter than this client's timeout.
            Err(error) => {
                self.unclear.lock().unwrap().push(format!("{what}: {error:?}"));
                Err("no answer".to_owned())
            }
        };
        self.asked.lock().unwrap()[index].outcome = Some(outcome);
    }

    /// The text of a failed response. The response must tell the client that it may retry, and reveal no internals.
    fn read(&self, answer: &Answer) -> String {
        let reason = answer.body["reason"].as_str().unwrap_or_default();
        let text = answer.body.to_string().to_lowercase();
        // Ids may contain any letters.
        let is_id = |word: &&str| word.split_once('_').is_some_and(|(_, id)| id.len() == 26);
        let text = text.split([' ', '/', '"']).filter(|word| !is_id(word)).collect::<Vec<_>>().join(" ");
        let inside = ["127.0.0.1", "postgres", "sqlite", "diesel", "nats", "tcp", "connection", "hyper", "os error"];
        let clear = match (answer.status.as_u16(), reason) {
            // The gateway retried, and the service was still working on the first request.
            (409, "REQUEST_IN_PROGRESS") | (503, "SERVICE_UNAVAILABLE" | "OVERLOADED") => {
                answer.headers.contains_key("retry-after")
            }
            (504, "DEADLINE_EXCEEDED") => true,
            _ => false,
        };
        if !clear || inside.iter().any(|word| text.contains(word)) {
            self.unclear.lock().unwrap().push(format!("{answer:?}"));
        }
        format!("{} {reason}", answer.status.as_u16())
    }

    /// The requests of one kind since a moment.
    fn since(&self, what: &str, moment: Instant) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.what == what && asked.began >= moment).cloned().collect()
    }

    /// How long after `back` every kind of request succeeded again.
    pub async fn recovered(&self, back: Instant) -> Result<Duration, String> {
        let mut longest = Duration::ZERO;
        for what in ASKED {
            longest = loop {
                let mut asked = self.since(what, back);
                // The latest requests may still be running.
                while asked.last().is_some_and(|last| last.outcome.is_none()) {
                    asked.pop();
                }
                let good = asked.rsplit(|asked| asked.outcome != Some(Ok(()))).next().unwrap_or_default();
                if good.len() >= IN_A_ROW {
                    break longest.max(good[0].began - back);
                }
                if back.elapsed() > NORMAL + EVERY * 5 {
                    return Err(format!("{what} is not answered again: {asked:#?}"));
                }
                tokio::time::sleep(EVERY).await;
            }
        }
        Ok(longest)
    }

    /// The failures of requests that were sent between two moments.
    pub fn failures(&self, from: Instant, to: Instant) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let within = asked.iter().filter(|asked| asked.began >= from && asked.began < to);
        within.filter_map(|asked| Some(format!("{}: {}", asked.what, asked.outcome.clone()?.err()?))).collect()
    }
}
