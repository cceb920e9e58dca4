//! What is there when the buying has ended, as the public API tells it.

use std::time::Duration;

use anyhow::Context;
use souk_import::api::{Api, list, text};
use tokio::time::Instant;

use super::{
    answers::{Order, Purchase},
    shop::{self, Product},
};

/// By when every order must be final, after the last kill.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// How long is waited for them to become final at all.
const TIMEOUT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// Everything that the run made, as it is now.
pub struct Found {
    /// All orders of its customers.
    pub orders: Vec<Order>,
    /// Its products.
    pub stock: Vec<Stock>,
    /// How long after the last kill, or the end of buying, everything was final.
    pub settled: Settled,
}

/// A product's stock.
pub struct Stock {
    /// Resource name.
    pub product: String,
    /// Pieces that were put in.
    pub put_in: i64,
    /// Pieces on hand.
    pub on_hand: i64,
    /// Pieces of them that are held for someone.
    pub reserved: i64,
}

/// How everything became final.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// After how long.
    pub after: Duration,
    /// Orders that were not final when they should have been.
    pub late: Vec<String>,
}

/// Waits until everything is final, then reads all of it.
pub async fn look(
    staff: &Api,
    buyers: &[Api],
    products: &[Product],
    purchases: &[Purchase],
    since: Instant,
) -> anyhow::Result<Found> {
    let settled = settle(buyers, purchases, staff, since).await?;
    let mut orders = Vec::new();
    for buyer in buyers {
        orders.extend(all(buyer, "").await?);
    }
    let mut stock = Vec::new();
    for product in products {
        let (on_hand, reserved) = shop::stock(staff, product).await?;
        stock.push(Stock { product: product.name.clone(), put_in: product.put_in, on_hand, reserved });
    }
    Ok(Found { orders, stock, settled })
}

async fn settle(buyers: &[Api], purchases: &[Purchase], staff: &Api, since: Instant) -> anyhow::Result<Settled> {
    // A list cannot be asked for orders with returns under way: those are looked at one by one.
    let mut returning: Vec<String> = purchases.iter().filter_map(under_way).collect();
    let mut settled = Settled::default();
    loop {
        let mut open = Vec::new();
        for buyer in buyers {
            for state in ["STATE_PENDING", "STATE_CANCELLING"] {
                let orders = all(buyer, &format!("state = {state}")).await?;
                open.extend(orders.into_iter().map(|order| format!("{} is {}", order.name, order.state)));
            }
        }
        let mut left = Vec::new();
        for name in returning {
            let order = staff.get(&format!("/v1/{name}"), &[]).await?;
            let order = order.ok().map(serde_json::from_value::<Order>).transpose()?;
            // One that is not there any more is found out later.
            if order.is_some_and(|order| !order.is_final()) {
                left.push(name);
            }
        }
        returning = left;
        open.extend(returning.iter().map(|name| format!("{name} has a return under way")));
        settled.after = since.elapsed();
        if settled.after > RECOVERY && settled.late.is_empty() {
            let late = format!("the last one became final after {:.1} s", settled.after.as_secs_f64());
            settled.late = if open.is_empty() { vec![late] } else { open.clone() };
        }
        if open.is_empty() || settled.after > TIMEOUT {
            return Ok(settled);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The order, if goods of it are on their way back.
fn under_way(purchase: &Purchase) -> Option<String> {
    let (.., replies) = purchase.returned.as_ref()?;
    let done = replies.iter().flatten().any(|back| back.state == "STATE_COMPLETED");
    purchase.order().filter(|_| !done).map(|order| order.name.clone())
}

/// All orders of a buyer that the filter lets through.
async fn all(buyer: &Api, filter: &str) -> anyhow::Result<Vec<Order>> {
    let (mut orders, mut page) = (Vec::new(), String::new());
    loop {
        let query = [("pageSize", "500"), ("filter", filter), ("pageToken", &page)];
        let answer = buyer.get("/v1/orders", &query).await?.context("orders cannot be listed")?;
        for order in list(&answer, "orders") {
            orders.push(serde_json::from_value(order.clone()).context("an order cannot be read")?);
        }
        page = text(&answer, "nextPageToken").unwrap_or_default().to_owned();
        if page.is_empty() {
            return Ok(orders);
        }
    }
}
