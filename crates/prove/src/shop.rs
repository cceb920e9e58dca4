//! The run's own products, customers and deliveries.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use rand::{RngExt, distr::Alphanumeric};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use souk_import::api::{Api, Credentials, Identity, list, text};

/// How often someone looks for what is nearly sold out.
const ROUND: Duration = Duration::from_millis(500);
/// How many customers are made at a time.
const WIDTH: usize = 4;

/// A product of the run.
pub struct Product {
    /// Resource name.
    pub name: String,
    /// Price of a piece in minor units.
    pub price: i64,
    /// Pieces that were put in.
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
        // Known in any case, so that it is archived in the end.
        products.push(product);
        delivered?;
    }
    Ok(())
}

/// Makes customers and logs them in.
pub async fn customers(server: &str, run: &str, count: u16) -> anyhow::Result<Vec<Api>> {
    let customer = |number| async move {
        // `.invalid` is no one's (RFC 2606).
        let email = format!("prove-{run}-{number}@souk.invalid");
        let password: String = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect();
        let body = json!({
            "email": email, "password": password, "displayName": format!("souk prove {run}, buyer {number}"),
        });
        let api = Api::new(server, Identity::Credentials(Credentials { email, password }))?;
        match api.post_as_no_one("/v1/users:register", &body).await? {
            Ok(_) => {}
            // Made by a try whose answer was lost.
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

/// Restocks products that are nearly sold out, after a delay, until the end. Returns how often.
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
            // Not at once: some buyers should find no stock.
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

/// Pieces of a product on hand, and of them reserved.
pub async fn stock(staff: &Api, product: &Product) -> anyhow::Result<(i64, i64)> {
    let answer = staff.get(&format!("/v1/{}/stock", product.name), &[]).await??;
    let sum = |key: &'static str| -> anyhow::Result<i64> {
        let pieces = |level: &Value| anyhow::Ok(text(level, key)?.parse::<i64>()?);
        list(&answer, "levels").map(pieces).sum()
    };
    Ok((sum("onHand")?, sum("reserved")?))
}

/// Takes the products out of sale.
pub async fn archive(staff: &Api, products: &[Product]) -> anyhow::Result<()> {
    for product in products {
        let path = format!("/v1/{}:archive", product.name);
        staff.post(&path, &json!({})).await?.with_context(|| format!("{} cannot be archived", product.name))?;
    }
    Ok(())
}
