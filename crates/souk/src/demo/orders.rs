//! The orders of the demo shop. Each is brought to the state that its `fate` names.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use souk_import::api::{Answer, Api, list, text};

use super::{Customer, Names, SOURCE, Shop, money};

/// An order in the shop's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub number: u32,
    pub customer: String,
    days_ago: i64,
    pub items: Vec<Item>,
    fate: Fate,
    /// Why the order was cancelled, refunded or returned.
    reason: Option<String>,
}

/// Pieces of a product.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub sku: String,
    quantity: i64,
}

/// The final state of an order.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Fate {
    Confirmed,
    Shipped,
    /// The first line is shipped, the others are not.
    PartlyShipped,
    Cancelled,
    /// Shipped, then partly refunded.
    Refunded,
    /// Shipped, then a piece was returned.
    Returned,
    /// Rejected: the customer's card was declined.
    Declined,
    /// Rejected: there was not enough stock.
    OutOfStock,
}

impl Fate {
    /// The name for people.
    const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed, to be shipped",
            Self::Shipped => "shipped",
            Self::PartlyShipped => "partly shipped",
            Self::Cancelled => "cancelled",
            Self::Refunded => "shipped, partly refunded",
            Self::Returned => "shipped, a piece returned",
            Self::Declined => "rejected: payment declined",
            Self::OutOfStock => "rejected: out of stock",
        }
    }

    const fn is_rejected(self) -> bool {
        matches!(self, Self::Declined | Self::OutOfStock)
    }

    const fn is_shipped(self) -> bool {
        matches!(self, Self::Shipped | Self::PartlyShipped | Self::Refunded | Self::Returned)
    }
}

/// Places the missing orders and brings each to its final state; returns the number of orders of each kind.
pub async fn run(
    api: &Api,
    shop: &Shop,
    products: &Names,
    customers: &Names,
) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let mut counts = BTreeMap::new();
    for order in &shop.orders {
        let customer = shop.customers.iter().find(|customer| customer.id == order.customer);
        let customer = customer.with_context(|| format!("{} is not among the customers", order.customer))?;
        let user = customers.get(&customer.id).context("the customer was not made")?;
        let placed = place(api, order, customer, user, products).await?;
        finish(api, order, &placed).await.with_context(|| format!("order {} of the demo", order.number))?;
        *counts.entry(order.fate.name()).or_default() += 1;
    }
    Ok(counts)
}

/// Returns the order as it is now. Places it if it does not exist.
async fn place(api: &Api, order: &Order, customer: &Customer, user: &str, products: &Names) -> anyhow::Result<Value> {
    let external_id = format!("{SOURCE}:{}", order.number);
    if let Some(found) = find(api, &external_id).await? {
        return Ok(found);
    }
    let mut items = Vec::new();
    for item in &order.items {
        let product = products.get(&item.sku).with_context(|| format!("{} was not made", item.sku))?;
        items.push(json!({ "product": product, "quantity": item.quantity.to_string() }));
    }
    let address = &customer.address;
    let mut body = json!({
        "requestId": format!("{SOURCE}:order:{}", order.number),
        "items": items,
        "shippingAddress": {
            "recipient": customer.name,
            "addressLines": [address.line],
            "locality": address.locality,
            "postalCode": address.postal_code,
            "regionCode": address.region,
        },
        "paymentToken": if order.fate == Fate::Declined { "tok_declined" } else { "tok_approved" },
        "customer": user,
        "externalId": external_id,
    });
    if let (Some(time), Some(body)) = (past(order.days_ago), body.as_object_mut()) {
        body.insert("placeTime".to_owned(), json!(time));
    }
    match api.post("/v1/orders", &body).await? {
        Ok(placed) => Ok(placed),
        // The order was placed by a run that ended before it got the response.
        Err(refusal) if matches!(refusal.reason.as_str(), "RESOURCE_EXISTS" | "IDEMPOTENCY_KEY_REUSED") => {
            find(api, &external_id).await?.with_context(|| format!("order {external_id} is neither there nor free"))
        }
        Err(refusal) => Err(refusal).with_context(|| format!("order {external_id} was refused")),
    }
}

async fn find(api: &Api, external_id: &str) -> anyhow::Result<Option<Value>> {
    let filter = format!("external_id = \"{external_id}\"");
    let found = api.get("/v1/orders", &[("filter", &filter)]).await??;
    Ok(list(&found, "orders").next().cloned())
}

/// The time so many days ago; `None` means the present time.
fn past(days_ago: i64) -> Option<String> {
    let time: DateTime<Utc> = Utc::now() - Duration::days(days_ago);
    (days_ago > 0).then(|| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Carries out the missing steps of an order. The order shows which steps were done, so none is done twice.
async fn finish(api: &Api, order: &Order, placed: &Value) -> anyhow::Result<()> {
    let (name, state) = (text(placed, "name")?, text(placed, "state")?);
    if (state == "STATE_REJECTED") != order.fate.is_rejected() {
        let why = placed.pointer("/rejection/message").and_then(Value::as_str).unwrap_or_default();
        bail!("{name} is {state}, which it should not be ({why}): the demo needs simulated payments and its own stock");
    }
    if order.fate == Fate::Cancelled && state == "STATE_CONFIRMED" {
        let body = json!({ "reason": order.reason });
        done(api.post(&format!("/v1/{name}:cancel"), &body).await?, "cancelled")?;
    }
    if !order.fate.is_shipped() {
        return Ok(());
    }
    if text(placed, "fulfillmentState")? == "FULFILLMENT_STATE_UNFULFILLED" {
        ship(api, order, name).await?;
    }
    let refunded = placed
        .pointer("/payment/refunded")
        .is_some_and(|amount| amount.get("units").and_then(Value::as_str).is_some_and(|units| units != "0"));
    if refunded {
        return Ok(());
    }
    let key = |what: &str| format!("{SOURCE}:{what}:{}", order.number);
    if order.fate == Fate::Refunded {
        let body = json!({ "requestId": key("refund"), "amount": money(1000), "reason": order.reason });
        done(api.post(&format!("/v1/{name}:refund"), &body).await?, "refunded")?;
    }
    if order.fate == Fate::Returned {
        let line = order.items.len();
        let items = json!([{ "lineNumber": line, "quantity": "1" }]);
        let body = json!({ "requestId": key("return"), "items": items, "reason": order.reason });
        done(api.post(&format!("/v1/{name}:returnItems"), &body).await?, "returned")?;
    }
    Ok(())
}

async fn ship(api: &Api, order: &Order, name: &str) -> anyhow::Result<()> {
    let taken = if order.fate == Fate::PartlyShipped { 1 } else { order.items.len() };
    let lines = order.items.iter().zip(1..).take(taken);
    let lines: Vec<_> =
        lines.map(|(item, number)| json!({ "lineNumber": number, "quantity": item.quantity.to_string() })).collect();
    let body = json!({
        "lines": lines,
        "carrier": "Demo Post",
        "trackingNumber": format!("DP{:08}", order.number),
        // The order is shipped one day after it was placed.
        "shipTime": past(order.days_ago - 1),
    });
    let path = format!("/v1/{name}/shipments?requestId={SOURCE}:ship:{}", order.number);
    done(api.post(&path, &body).await?, "shipped")
}

fn done(answer: Answer, what: &str) -> anyhow::Result<()> {
    answer.map(drop).with_context(|| format!("it could not be {what}"))
}
