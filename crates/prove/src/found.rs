//! Reads the stored data through the public API after all orders were placed.

use std::time::Duration;

use anyhow::Context;
use souk_import::api::{Api, list, text};
use tokio::time::Instant;

use super::{
    answers::{Order, Purchase},
    shop::{self, Product},
};

/// The time after the last kill in which every order must become final.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// The longest time to wait for orders to become final.
const TIMEOUT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// All data of the run, as it is now.
pub struct Found {
    /// All orders of the run's customers.
    pub orders: Vec<Order>,
    /// The stock of the run's products.
    pub stock: Vec<Stock>,
    /// When all orders became final.
    pub settled: Settled,
}

/// A product's stock.
pub struct Stock {
    /// The resource name of the product.
    pub product: String,
    /// Pieces that were added.
    pub put_in: i64,
    /// Pieces on hand.
    pub on_hand: i64,
    /// Pieces on hand that are reserved.
    pub reserved: i64,
}

/// How the orders became final.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// The time from the last kill, or the end of buying, until all orders were final.
    pub after: Duration,
    /// Orders that were not final within [`RECOVERY`].
    pub late: Vec<String>,
}

/// Waits until all orders are final, then reads all data.
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
    // ListOrders has no filter for orders with unfinished returns, so these are read one by one.
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
            // A later check finds orders that are missing.
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

/// The order, if it has an unfinished return.
fn under_way(purchase: &Purchase) -> Option<String> {
    let (.., replies) = purchase.returned.as_ref()?;
    let done = replies.iter().flatten().any(|back| back.state == "STATE_COMPLETED");
    purchase.order().filter(|_| !done).map(|order| order.name.clone())
}

/// All orders of a buyer that match the filter.
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
