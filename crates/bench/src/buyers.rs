//! The orders that buyers place, and their requests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::Result;
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use souk_proto::{
    common::v1::Address,
    order::v1::{Order, PlaceOrderRequest, order::State, place_order_request::Item},
};

use crate::{
    load::{Body, Call, Target},
    souk::Souk,
};

/// The number of products. The pgbench schema (`floor/`) has as many.
pub const PRODUCTS: usize = 10_000;

/// The distribution of the products that are ordered.
#[derive(Clone, Copy)]
pub enum Demand {
    /// Two products of an order, all equally likely.
    Uniform,
    /// Two products of an order, with a Zipf distribution: few products are in most orders.
    Zipf,
    /// All orders are of the same product.
    One,
}

/// Makes the next basket: resource names of products, and pieces.
pub type Basket = Arc<dyn Fn() -> Vec<(String, i64)> + Send + Sync>;

impl Demand {
    /// Makes baskets. As in the pgbench scripts, a basket has one piece of a product of the first half, and two pieces
    /// of one of the second half.
    pub fn of(self, products: Arc<Vec<String>>) -> Basket {
        let half = products.len() / 2;
        let weights = zipf(half);
        Arc::new(move || {
            let pick = |from: usize, quantity: i64| {
                let index = match self {
                    Self::Uniform => rand::random_range(0..half),
                    Self::Zipf => weights.partition_point(|sum| *sum < rand::random::<f64>()).min(half - 1),
                    Self::One => 0,
                };
                (products[from + index].clone(), quantity)
            };
            match self {
                Self::One => vec![pick(0, 1)],
                Self::Uniform | Self::Zipf => vec![pick(0, 1), pick(half, 2)],
            }
        })
    }
}

/// Buyers of one souk.
pub struct Buyers {
    address: String,
    /// The access token of the buyers.
    pub token: String,
    /// Resource names of the products.
    pub products: Arc<Vec<String>>,
}

impl Buyers {
    /// Fills a souk with [`PRODUCTS`] products, and registers the buyers.
    ///
    /// # Errors
    /// If souk refuses a request.
    pub async fn of(souk: &Souk<'_>) -> Result<Self> {
        Self::with(souk, PRODUCTS).await
    }

    /// Fills a souk with a number of products, and registers the buyers.
    ///
    /// # Errors
    /// If souk refuses a request.
    pub async fn with(souk: &Souk<'_>, products: usize) -> Result<Self> {
        let products = Arc::new(souk.fill(products).await?);
        let token = souk.register("ann@example.com", "correct horse").await?;
        Ok(Self { address: souk.gateway(), token, products })
    }

    /// Places orders over REST.
    pub fn rest(&self, demand: Demand) -> Target {
        let body = self.body(demand, |request| {
            let item = |item: &Item| json!({"product": item.product, "quantity": item.quantity.to_string()});
            let body = json!({
                "requestId": request.request_id,
                "items": request.items.iter().map(item).collect::<Vec<_>>(),
                "shippingAddress": {"recipient": "Ann", "addressLines": ["1 High Street"], "regionCode": "GB"},
                "paymentToken": request.payment_token,
            });
            body.to_string().into()
        });
        self.target(Call::Post("/v1/orders", body), |answer| confirmed(answer) == 1)
    }

    /// Places orders over gRPC.
    pub fn grpc(&self, demand: Demand) -> Target {
        let body = self.body(demand, |request| request.encode_to_vec().into());
        let confirmed =
            |answer: &Bytes| Order::decode(answer.slice(5..)).is_ok_and(|order| order.state() == State::Confirmed);
        self.target(Call::Grpc("/souk.order.v1.OrderService/PlaceOrder", body), confirmed)
    }

    /// Reads orders over REST with a token. A response must have `expected` confirmed orders.
    pub fn read(&self, path: impl Fn() -> String + Send + Sync + 'static, token: &str, expected: usize) -> Target {
        let check = Arc::new(move |answer: &Bytes| confirmed(answer) == expected);
        Target { address: self.address.clone(), call: Call::Get(Arc::new(path)), token: token.to_owned(), check }
    }

    fn target(&self, call: Call, check: fn(&Bytes) -> bool) -> Target {
        let (address, token) = (self.address.clone(), self.token.clone());
        Target { address, call, token, check: Arc::new(check) }
    }

    /// Makes requests, each with its own idempotency key and a basket.
    fn body(&self, demand: Demand, write: fn(&PlaceOrderRequest) -> Bytes) -> Body {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let basket = demand.of(self.products.clone());
        Arc::new(move || {
            let item = |(product, quantity)| Item { product, quantity, unit_price: None };
            write(&PlaceOrderRequest {
                request_id: format!("bench-{}", KEYS.fetch_add(1, Relaxed)),
                items: basket().into_iter().map(item).collect(),
                shipping_address: Some(Address {
                    recipient: "Ann".to_owned(),
                    address_lines: vec!["1 High Street".to_owned()],
                    region_code: "GB".to_owned(),
                    ..Address::default()
                }),
                payment_token: "tok_approved".to_owned(),
                ..PlaceOrderRequest::default()
            })
        })
    }
}

/// The number of confirmed orders in a JSON response.
fn confirmed(answer: &[u8]) -> usize {
    answer.windows(17).filter(|text| text == br#""STATE_CONFIRMED""#).count()
}

/// The cumulative distribution over the ranks, where rank n has the weight 1/n^1.1.
fn zipf(ranks: usize) -> Vec<f64> {
    let weights = (1..=ranks).map(|rank| (rank as f64).powf(-1.1));
    let total: f64 = weights.clone().sum();
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight / total;
        Some(*sum)
    });
    sums.collect()
}
