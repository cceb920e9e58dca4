//! The second pass: invoices become orders, cancellations and returns, in the order of their dates.
//!
//! Many invoices are processed at a time, but those of one customer in sequence, because a cancellation refers to
//! earlier orders.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Semaphore, oneshot},
    task::JoinSet,
};

use super::{
    Options, SOURCE,
    catalogue::money,
    plan::{Invoice, Plan},
    report::Report,
    rules::{self, Kind, Reason},
    source::{Line, Source},
    takeback::{Takeback, Taken},
};
use crate::api::{Api, Refusal, list, text};

/// The most lines that one order can have (`PlaceOrderRequest.items` of the contract).
const MAX_LINES: usize = 1000;

struct Importer {
    api: Arc<Api>,
    products: HashMap<String, String>,
    customers: BTreeMap<String, String>,
    wanted_back: HashSet<(String, String)>,
    back: Mutex<Takeback>,
    report: Mutex<Report>,
}

/// Imports all invoices of the plan and returns the finished report.
pub async fn run(
    api: &Arc<Api>,
    args: &Options,
    plan: &Plan,
    products: HashMap<String, String>,
    customers: BTreeMap<String, String>,
    report: Report,
    bar: &ProgressBar,
) -> anyhow::Result<Report> {
    let importer = Arc::new(Importer {
        api: api.clone(),
        products,
        customers,
        wanted_back: plan.wanted_back.clone(),
        back: Mutex::default(),
        report: Mutex::new(report),
    });
    let mut source = Source::open(&args.file)?;
    let permits = Arc::new(Semaphore::new(usize::from(args.concurrency)));
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut last_of: HashMap<String, oneshot::Receiver<()>> = HashMap::new();
    for invoice in &plan.invoices {
        let lines = read(&mut source, invoice)?;
        let customer = lines.iter().map(|line| &line.customer).find(|customer| !customer.is_empty()).cloned();
        let permit = permits.clone().acquire_owned().await?;
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
        let (done, next) = oneshot::channel();
        // Sales without a customer cannot be cancelled, so they need no sequence.
        let before = customer.clone().and_then(|customer| last_of.insert(customer, next));
        let (importer, bar, number, date) = (importer.clone(), bar.clone(), invoice.number.clone(), invoice.date);
        tasks.spawn(async move {
            if let Some(before) = before {
                // An error means that the previous invoice failed. Then the whole import fails.
                let _ = before.await;
            }
            importer
                .invoice(&number, date, customer.unwrap_or_default(), lines)
                .await
                .with_context(|| format!("invoice {number}"))?;
            bar.inc(1);
            drop((done, permit));
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let mut report = Arc::into_inner(importer).context("an invoice is still being worked on")?.report.into_inner();
    report.finish()?;
    Ok(report)
}

/// The lines of the invoice that souk can import. The first pass has reported the others.
fn read(source: &mut Source, invoice: &Invoice) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for run in &invoice.runs {
        source.seek(*run)?;
        for _ in 0..run.count {
            let (_, line) = source.next()?.context("the export changed while it was read")?;
            lines.extend(line.ok().filter(|line| line.invoice == invoice.number && rules::judge(line).is_ok()));
        }
    }
    Ok(lines)
}

impl Importer {
    async fn invoice(
        &self,
        number: &str,
        date: DateTime<Utc>,
        customer: String,
        lines: Vec<Line>,
    ) -> anyhow::Result<()> {
        match lines.first().map(rules::judge) {
            Some(Ok(Kind::Cancellation)) => self.take_back(number, date, &lines).await,
            Some(_) => {
                for (index, part) in lines.chunks(MAX_LINES).enumerate() {
                    let id = if index == 0 { number.to_owned() } else { format!("{number}:{}", index + 1) };
                    self.place(&id, date, &customer, part).await?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn place(&self, id: &str, date: DateTime<Utc>, customer: &str, lines: &[Line]) -> anyhow::Result<()> {
        let external_id = format!("{SOURCE}:{id}");
        let body = json!({
            "requestId": external_id,
            "items": lines.iter().map(|line| self.item(line)).collect::<anyhow::Result<Vec<_>>>()?,
            "shippingAddress": {
                "recipient": if customer.is_empty() { "Customer".to_owned() } else { format!("Customer {customer}") },
                "regionCode": lines.first().map_or("ZZ", |line| rules::region(&line.country)),
            },
            "paymentToken": "tok_approved",
            "customer": self.customers.get(customer).context("the customer was not made")?,
            "externalId": external_id,
            "placeTime": time(date),
        });
        let order = match self.api.post("/v1/orders", &body).await? {
            Ok(order) => order,
            // The order was imported by an old run whose idempotency record has expired. Its external id is still
            // known.
            Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => self.by_external_id(&external_id).await?,
            Err(refusal) => return self.reject(lines, Reason::OrderRefused, &refusal.to_string()).await,
        };
        let state = text(&order, "state")?;
        if !matches!(state, "STATE_CONFIRMED" | "STATE_CANCELLED" | "STATE_CANCELLING") {
            let why = order.pointer("/rejection/message").and_then(Value::as_str).unwrap_or(state);
            return self.reject(lines, Reason::OrderRejected, why).await;
        }
        let name = text(&order, "name")?;
        let pieces = lines.iter().map(|line| line.quantity).sum();
        let wanted = lines.iter().zip(1..).filter_map(|(line, number)| {
            let key = (line.customer.clone(), rules::sku(&line.code));
            self.wanted_back.contains(&key).then_some((key, number, line.price, line.quantity))
        });
        self.back.lock().await.ordered(name, pieces, wanted);
        let mut report = self.report.lock().await;
        report.orders += 1;
        report.ordered += lines.len() as u64;
        report.value += lines.iter().map(|line| line.price * line.quantity).sum::<i64>();
        Ok(())
    }

    fn item(&self, line: &Line) -> anyhow::Result<Value> {
        let product = self.products.get(&rules::sku(&line.code)).context("the product was not made")?;
        Ok(json!({ "product": product, "quantity": line.quantity.to_string(), "unitPrice": money(line.price) }))
    }

    async fn by_external_id(&self, external_id: &str) -> anyhow::Result<Value> {
        let filter = format!("external_id = \"{external_id}\"");
        let found = self.api.get("/v1/orders", &[("filter", &filter)]).await??;
        list(&found, "orders").next().cloned().with_context(|| format!("order {external_id} is neither there nor free"))
    }

    async fn take_back(&self, number: &str, date: DateTime<Utc>, lines: &[Line]) -> anyhow::Result<()> {
        let mut taken = Taken::new();
        let mut done = Vec::new();
        let mut whole = HashSet::new();
        {
            let mut back = self.back.lock().await;
            for line in lines {
                let key = (line.customer.clone(), rules::sku(&line.code));
                if back.take(&key, line.price, -line.quantity, &mut taken) {
                    done.push(line.clone());
                } else {
                    let why = "no earlier order of the customer in the export has so many of it at this price";
                    self.report.lock().await.reject(
                        line.number,
                        &line.invoice,
                        &line.code,
                        Reason::NothingToCancel,
                        why,
                    )?;
                }
            }
            for (order, pieces) in &taken {
                if back.is_whole(order, pieces) {
                    whole.insert(order.clone());
                }
            }
        }
        for (order, pieces) in &taken {
            let answer = if whole.contains(order) {
                let body = json!({ "reason": format!("cancelled by {number}") });
                self.api.post(&format!("/v1/{order}:cancel"), &body).await?
            } else {
                let items: Vec<_> = pieces
                    .iter()
                    .map(|(line, pieces)| json!({ "lineNumber": line, "quantity": pieces.to_string() }))
                    .collect();
                let body = json!({
                    "requestId": format!("{SOURCE}:{number}:{}", order.trim_start_matches("orders/")),
                    "items": items,
                    "reason": format!("returned by {number}"),
                    "returnTime": time(date),
                });
                self.api.post(&format!("/v1/{order}:returnItems"), &body).await?
            };
            answer
                .map_err(|refusal: Refusal| anyhow::anyhow!(refusal))
                .with_context(|| format!("{order} was not returned"))?;
        }
        let mut report = self.report.lock().await;
        report.returns += taken.len() as u64;
        report.returned += done.len() as u64;
        report.refunded += done.iter().map(|line| line.price * -line.quantity).sum::<i64>();
        Ok(())
    }

    async fn reject(&self, lines: &[Line], reason: Reason, why: &str) -> anyhow::Result<()> {
        let mut report = self.report.lock().await;
        for line in lines {
            report.reject(line.number, &line.invoice, &line.code, reason, why)?;
        }
        Ok(())
    }
}

fn time(date: DateTime<Utc>) -> String {
    date.to_rfc3339_opts(SecondsFormat::Secs, true)
}
