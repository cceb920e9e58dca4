//! The run's own products, customers and deliveries.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use rand::{RngExt, distr::Alphanumeric};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use souk_import::api::{Api, Credentials, Identity, list, text};

/// The interval at which stock is checked for products that are nearly sold out.
const ROUND: Duration = Duration::from_millis(500);
/// The number of customers that are created at the same time.
const WIDTH: usize = 4;

/// A product of the run.
pub struct Product {
    /// The resource name.
    pub name: String,
    /// The price of a piece in minor units.
    pub price: i64,
    /// Pieces that were added.
    pub put_in: i64,
}

/// Creates products with stock.
pub async fn stock_up(
    staff: &Api,
    run: &str,
    (count, pieces): (u16, i64),
    products: &mut Vec<Product>,
) -> anyhow::Result<()> {
    for number in 1..=i64::from(count) {
        let (sku, price) = (format!("PROVE-{run}-{number}"), 150 + 425 * number);
        let amount = json!({
            "currencyCode": "EUR", "units": (price / 100).to_string(), "nanos": price % 100 * 10_000_000,
        });
        let body = json!({ "sku": sku, "title": format!("souk prove {run}, product {number}"), "price": amount });
        let mut product = Product { name: staff.product(&sku, &body).await?, price, put_in: 0 };
        let delivered = deliver(staff, &format!("prove:{run}:opening:{number}"), &mut product, pieces).await;
        // The product is added even if the delivery failed, so that it is archived at the end.
        products.push(product);
        delivered?;
    }
    Ok(())
}

/// Creates customers and logs them in.
pub async fn customers(server: &str, run: &str, count: u16) -> anyhow::Result<Vec<Api>> {
    let customer = |number| async move {
        // Nobody can own a domain under `.invalid` (RFC 2606).
        let email = format!("prove-{run}-{number}@souk.invalid");
        let password: String = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect();
        let body = json!({
            "email": email, "password": password, "displayName": format!("souk prove {run}, buyer {number}"),
        });
        let api = Api::new(server, Identity::Credentials(Credentials { email, password }))?;
        match api.post_as_no_one("/v1/users:register", &body).await? {
            Ok(_) => {}
            // An earlier attempt, whose response was lost, has made it.
            Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => {}
            Err(refusal) => return Err(refusal).context("a buyer could not register"),
        }
        anyhow::Ok(api)
    };
    stream::iter(1..=count).map(customer).buffered(WIDTH).try_collect().await
}

async fn deliver(staff: &Api, request_id: &str, product: &mut Product, pieces: i64) -> anyhow::Result<()> {
    let body = json!({
        "requestId": request_id,
        "items": [{ "product": product.name, "quantity": pieces.to_string() }],
        "reason": "REASON_RECEIPT",
        "note": "for souk prove",
    });
    staff.post("/v1/stock:adjust", &body).await?.with_context(|| format!("{request_id} was not taken"))?;
    product.put_in += pieces;
    Ok(())
}

/// Restocks products that are nearly sold out, after a delay, until the end. Returns the number of deliveries.
pub async fn deliveries(
    staff: &Api,
    run: &str,
    products: &mut [Product],
    pieces: i64,
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let (mut was_low, mut done) = (vec![false; products.len()], 0);
    while stop.run_until_cancelled(tokio::time::sleep(ROUND)).await.is_some() {
        for (product, was_low) in products.iter_mut().zip(&mut was_low) {
            let is_low = available(staff, product).await? < 3;
            // Stock is not added at once, so that some buyers find none.
            *was_low = if is_low && *was_low {
                deliver(staff, &format!("prove:{run}:delivery:{done}"), product, pieces).await?;
                done += 1;
                false
            } else {
                is_low
            };
        }
    }
    Ok(done)
}

async fn available(staff: &Api, product: &Product) -> anyhow::Result<i64> {
    let answer = staff.get(&format!("/v1/{}/availability", product.name), &[]).await??;
    Ok(text(&answer, "available")?.parse()?)
}

/// The pieces of a product that are on hand, and how many of them are reserved.
pub async fn stock(staff: &Api, product: &Product) -> anyhow::Result<(i64, i64)> {
    let answer = staff.get(&format!("/v1/{}/stock", product.name), &[]).await??;
    let sum = |key: &'static str| -> anyhow::Result<i64> {
        let pieces = |level: &Value| anyhow::Ok(text(level, key)?.parse::<i64>()?);
        list(&answer, "levels").map(pieces).sum()
    };
    Ok((sum("onHand")?, sum("reserved")?))
}

/// Archives the products.
pub async fn archive(staff: &Api, products: &[Product]) -> anyhow::Result<()> {
    for product in products {
        let path = format!("/v1/{}:archive", product.name);
        staff.post(&path, &json!({})).await?.with_context(|| format!("{} cannot be archived", product.name))?;
    }
    Ok(())
}
