//! The report of a run, for people and as JSON.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use souk_store::verify::Check;

use super::answers::{Purchase, Reply};

/// The figures of a run.
#[derive(Debug, Default, Serialize)]
pub struct Did {
    /// The seed of the random choices.
    pub seed: u64,
    /// The number of orders that were requested.
    pub orders: u64,
    /// The number of customers who ordered.
    pub buyers: u16,
    /// How long they ordered, in seconds.
    pub seconds: f64,
    /// The number of orders by final state and by reason of rejection.
    pub answers: BTreeMap<String, u64>,
    /// The number of orders whose request was sent several times.
    pub sent_again: u64,
    /// The number of repeated requests for orders, without the first ones.
    pub copies: u64,
    /// The number of orders that were cancelled.
    pub cancelled: u64,
    /// The number of orders with returned goods.
    pub returned: u64,
    /// The number of times that stock was added.
    pub deliveries: u64,
    /// How often each service was killed.
    pub kills: BTreeMap<&'static str, u64>,
    /// The reasons for repeated calls, with the number of repetitions.
    pub repeated: BTreeMap<String, u64>,
    /// The longest time that a buyer waited for a response, including repeated attempts, in seconds.
    pub longest_wait: f64,
    /// The time from the last kill, or the end of buying, until all orders were final, in seconds.
    pub final_after: f64,
}

impl Did {
    /// Counts the buyers' responses.
    pub fn count(&mut self, purchases: &[Purchase]) {
        self.orders = purchases.len() as u64;
        for one in purchases {
            let answer = match (one.order(), one.placed.first()) {
                (Some(order), _) => match &order.rejection {
                    Some(rejection) => rejection.reason.clone(),
                    None => order.state.trim_start_matches("STATE_").to_owned(),
                },
                (None, _) => "NONE".to_owned(),
            };
            *self.answers.entry(answer.to_lowercase().replace('_', " ")).or_default() += 1;
            let again = one.placed.len().saturating_sub(1) as u64;
            self.sent_again += u64::from(again > 0);
            self.copies += again;
            self.cancelled += u64::from(one.cancelled.iter().any(Reply::is_ok));
            self.returned += u64::from(one.returned.iter().any(|(.., replies)| replies.iter().any(Reply::is_ok)));
        }
    }

    /// Writes the figures and checks as JSON.
    pub fn write(&self, found: &[Check], file: &Path) -> anyhow::Result<()> {
        let found: Vec<_> = found
            .iter()
            .map(|check| json!({ "promise": check.name, "counted": check.counted, "broken": check.broken }))
            .collect();
        let text = serde_json::to_string_pretty(&json!({ "did": self, "found": found }))?;
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.orders as f64 / self.seconds.max(0.001);
        writeln!(
            f,
            "  orders        {} by {} buyers in {:.1} s: {rate:.0} a second",
            self.orders, self.buyers, self.seconds
        )?;
        writeln!(f, "  answers       {}", list(&self.answers))?;
        writeln!(
            f,
            "  sent again    {} orders, {} times in all, most at the same moment",
            self.sent_again, self.copies
        )?;
        writeln!(f, "  taken back    {} cancelled, {} returned in part", self.cancelled, self.returned)?;
        writeln!(f, "  deliveries    {} of what was nearly sold out", self.deliveries)?;
        writeln!(f, "  kills         {}", list(&self.kills))?;
        writeln!(f, "  tried again   {}", list(&self.repeated))?;
        writeln!(f, "  longest wait  {:.1} s for an answer, all tries counted", self.longest_wait)?;
        let since = if self.kills.is_empty() { "the end" } else { "the last kill" };
        writeln!(f, "  all final     {:.1} s after {since}", self.final_after)
    }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let total: u64 = counts.values().sum();
    let each: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    format!("{total}: {}", each.join(", "))
}

/// A duration in seconds, rounded to milliseconds.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
