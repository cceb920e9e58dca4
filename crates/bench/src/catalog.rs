//! Reads of the catalogue: a product, a page of 20 with a filter, and a search, over REST compared with direct gRPC.
//! Also log-in.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use souk_proto::inventory::v1::{GetProductRequest, ListProductsRequest, ListProductsResponse, Product};
use souk_testkit::servers;

use crate::{
    Rounds,
    buyers::PRODUCTS,
    load::{Call, Target},
    report::{Figures, Goal, Report},
    souk::{NO_CACHE, Place, Souk},
};

const PAGE: i32 = 20;
const GET_RPC: &str = "/souk.inventory.v1.ProductService/GetProduct";
const LIST_RPC: &str = "/souk.inventory.v1.ProductService/ListProducts";
const LOG_IN: &str = "log-in, REST";

/// Makes the next parameter of a read.
type Text = Arc<dyn Fn() -> String + Send + Sync>;

/// A read of the catalogue, with another parameter each time.
pub struct Read {
    /// The name of the read in the report.
    pub what: &'static str,
    rest: Call,
    grpc: Call,
    /// Counts the products in the message of a response.
    count: fn(&[u8]) -> usize,
    /// The number of products that a response must have.
    expected: usize,
}

/// Runs the case `catalog`.
pub async fn run(rounds: &Rounds) -> Result<()> {
    let (binary, server) = (rounds.souk()?, servers::postgres()?);
    let plain = Souk::start(&binary, Place::Postgres(&server, "plain"), &[NO_CACHE]).await?;
    let caching = Souk::start(&binary, Place::Postgres(&server, "caching"), &[]).await?;
    let plain_reads = reads(plain.fill(PRODUCTS).await?);
    let caching_reads = reads(caching.fill(PRODUCTS).await?);
    plain.register("ann@example.com", "correct horse").await?;

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        for (read, cached) in plain_reads.iter().zip(&caching_reads) {
            let [direct, rest, cache] = names(read);
            for (name, souk, target) in [
                (direct, &plain, read.over_grpc(&plain)?),
                (rest, &plain, read.over_rest(&plain)),
                (cache, &caching, cached.over_rest(&caching)),
            ] {
                let turn = souk.turn(&target, rounds.connections, rounds.turn()).await;
                report.add(&name, turn.with_context(|| name.clone())?);
            }
        }
        let turn = plain.turn(&log_in(&plain), rounds.connections, rounds.turn()).await;
        report.add(LOG_IN, turn.context(LOG_IN)?);
        plain.verify().await?;
        report.show_round();
    }
    let rate = |f: &Figures| f.rate;
    for (read, goal) in plain_reads.iter().zip([Goal::AtLeast(0.5), Goal::AtLeast(0.3), Goal::Open]) {
        let ([direct, rest, cached], what) = (names(read), format!("{} by REST / the same direct", read.what));
        report.ratio(&what, goal, (&rest, rate), (&direct, rate));
        report.ratio(&format!("{what}, with the cache"), Goal::Open, (&cached, rate), (&direct, rate));
    }
    let [get, list, _] = &plain_reads;
    let ([get, ..], [_, list, _]) = (names(get), names(list));
    report.ratio("list by REST / get direct", Goal::Open, (&list, rate), (&get, rate));
    report.finish(rounds.json.as_deref())
}

fn names(read: &Read) -> [String; 3] {
    ["direct gRPC", "REST", "REST, cached"].map(|way| format!("{}, {way}", read.what))
}

/// Get, list and search of the products of a shop. There are 40 different lists, and as many different gets and
/// searches as products.
pub fn reads(products: Vec<String>) -> [Read; 3] {
    let count = products.len();
    let any: Text = Arc::new(move || products[rand::random_range(0..products.len())].clone());
    let picked = any.clone();
    let get = Read {
        what: "get",
        rest: Call::Get(Arc::new(move || format!("/v1/{}", any()))),
        grpc: Call::Grpc(GET_RPC, Arc::new(move || GetProductRequest { name: picked() }.encode_to_vec().into())),
        count: |message| usize::from(Product::decode(message).is_ok_and(|product| !product.sku.is_empty())),
        expected: 1,
    };
    // Each filter matches a fifth of the products.
    let filter = || {
        let from: u32 = rand::random_range(1..=40);
        format!("price >= {from}.00 AND price <= {}.00", from + 10)
    };
    let filtered = |filter| ListProductsRequest { page_size: PAGE, filter, ..ListProductsRequest::default() };
    // The number is in the title of one product, the other word in all titles.
    let words = move || format!("{} product", rand::random_range(0..count));
    let found = |query| ListProductsRequest { page_size: PAGE, query, ..ListProductsRequest::default() };
    [
        get,
        listing("list of 20", ("filter", Arc::new(filter)), filtered, PAGE as usize),
        listing("search", ("query", Arc::new(words)), found, 1),
    ]
}

/// A read of a page of products, with one parameter.
fn listing(
    what: &'static str,
    (parameter, value): (&'static str, Text),
    request: fn(String) -> ListProductsRequest,
    expected: usize,
) -> Read {
    let values = value.clone();
    Read {
        what,
        rest: Call::Get(Arc::new(move || page(parameter, &value()))),
        grpc: Call::Grpc(LIST_RPC, Arc::new(move || request(values()).encode_to_vec().into())),
        count: |message| ListProductsResponse::decode(message).map_or(0, |answer| answer.products.len()),
        expected,
    }
}

impl Read {
    /// Reads through the gateway.
    pub fn over_rest(&self, souk: &Souk<'_>) -> Target {
        let expected = self.expected;
        let check = move |answer: &Bytes| answer.windows(6).filter(|text| text == br#""sku":"#).count() == expected;
        Target { address: souk.gateway(), call: self.rest.clone(), token: String::new(), check: Arc::new(check) }
    }

    /// Reads from the service directly.
    fn over_grpc(&self, souk: &Souk<'_>) -> Result<Target> {
        let (count, expected) = (self.count, self.expected);
        let check = move |answer: &Bytes| answer.get(5..).is_some_and(|message| count(message) == expected);
        let address = souk.service("inventory")?;
        Ok(Target { address, call: self.grpc.clone(), token: String::new(), check: Arc::new(check) })
    }
}

/// The path of a page of products.
fn page(parameter: &str, value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = value.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    format!("/v1/products?pageSize={PAGE}&{parameter}={}", encoded.collect::<String>())
}

fn log_in(souk: &Souk<'_>) -> Target {
    let body = Bytes::from(json!({"email": "ann@example.com", "password": "correct horse"}).to_string());
    let check = |answer: &Bytes| answer.windows(13).any(|text| text == br#""accessToken""#);
    Target {
        address: souk.gateway(),
        call: Call::Post("/v1/sessions:logIn", Arc::new(move || body.clone())),
        token: String::new(),
        check: Arc::new(check),
    }
}
