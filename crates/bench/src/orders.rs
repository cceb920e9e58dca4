//! Orders: placed through the gateway, the whole saga to its end, beside the least that an order costs PostgreSQL.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use souk_proto::{
    common::v1::Address,
    order::v1::{Order, PlaceOrderRequest, order::State, place_order_request::Item},
};
use souk_testkit::{
    process::{Process, Program},
    servers::{self, Server},
};

use crate::{
    Rounds,
    floor::{self, Floor},
    load::{self, Body, Call, Target},
    process::{usage, usage_of_tree},
    report::{Figures, Report},
    shop::{Shop, text},
};

const FLOOR: &str = "pgbench, uniform";
const FLOOR_HOT: &str = "pgbench, one SKU";
const REST: &str = "souk, REST, uniform";
const REST_ZIPF: &str = "souk, REST, Zipf 1.1";
const REST_HOT: &str = "souk, REST, one SKU";
const GRPC: &str = "souk, gRPC, uniform";
const REST_SQLITE: &str = "souk, REST, SQLite";

/// As many as in the floor's schema.
const PRODUCTS: usize = 10_000;
const WARM: Duration = Duration::from_secs(1);
const SERVICES: [&str; 3] = ["user", "inventory", "order"];

/// One souk, up, filled and with a buyer.
struct Souk<'s> {
    process: Process,
    /// Its PostgreSQL; it has SQLite where there is none.
    server: Option<&'s Server>,
    folder: tempfile::TempDir,
    address: String,
    buyer: String,
    products: Arc<Vec<String>>,
    answered: AtomicU64,
}

/// Which products are wanted.
#[derive(Clone, Copy)]
enum Demand {
    /// Two, each as likely as any other.
    Uniform,
    /// Two, the first ones far more often than the last.
    Zipf,
    /// All want the same one.
    One,
}

/// Runs the case.
pub async fn run(rounds: &Rounds, buyers: usize) -> Result<()> {
    let binary = rounds.souk()?;
    let server = servers::postgres()?;
    let floor = Floor::prepare(&server)?;
    for service in SERVICES {
        floor::query(&server, "postgres", &format!("CREATE DATABASE souk_{service}"))?;
    }
    let souk = Souk::start(&binary, Some(&server)).await?;
    let embedded = Souk::start(&binary, None).await?;

    let mut report = Report::default();
    for round in 1..=rounds.rounds {
        let mut add = |name, figures: Figures| {
            println!("round {round}: {name:<22} {:>7.0} orders/s", figures.rate);
            report.add(name, figures);
        };
        let pgbench = |script| floor.turn(script, souk.folder.path(), rounds.connections, rounds.seconds);
        add(FLOOR, pgbench(floor::UNIFORM)?);
        add(REST, souk.turn(rounds, buyers, souk.rest(Demand::Uniform)).await.context(REST)?);
        add(GRPC, souk.turn(rounds, buyers, souk.grpc(Demand::Uniform)).await.context(GRPC)?);
        add(REST_ZIPF, souk.turn(rounds, buyers, souk.rest(Demand::Zipf)).await.context(REST_ZIPF)?);
        add(FLOOR_HOT, pgbench(floor::HOT)?);
        add(REST_HOT, souk.turn(rounds, buyers, souk.rest(Demand::One)).await.context(REST_HOT)?);
        let turn = embedded.turn(rounds, buyers, embedded.rest(Demand::Uniform)).await;
        add(REST_SQLITE, turn.context(REST_SQLITE)?);
        souk.check(&binary).await?;
        embedded.check(&binary).await?;
    }
    report.print("souk");
    println!();
    report.ratio("orders over REST / pgbench, uniform", REST, FLOOR, |f| f.rate);
    report.ratio("orders over gRPC / pgbench, uniform", GRPC, FLOOR, |f| f.rate);
    report.ratio("orders over REST, one SKU / pgbench, one SKU", REST_HOT, FLOOR_HOT, |f| f.rate);
    report.ratio("orders over REST, one SKU / uniform", REST_HOT, REST, |f| f.rate);
    report.ratio("orders over REST, Zipf 1.1 / uniform", REST_ZIPF, REST, |f| f.rate);
    report.ratio("orders over REST, SQLite / PostgreSQL", REST_SQLITE, REST, |f| f.rate);
    report.ratio("CPU an order, all / pgbench, uniform", REST, FLOOR, |f| f.cpu_per_1000);
    if let Some(path) = &rounds.json {
        report.write(path)?;
    }
    Ok(())
}

impl<'s> Souk<'s> {
    async fn start(binary: &Path, server: Option<&'s Server>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = Program::new(binary, "grpcurl -plaintext")
            .args(["up", "--listen", "127.0.0.1:0"])
            // One machine that asks all it can, and nobody who reads a log.
            .env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false")
            .env("SOUK_GATEWAY__ACCESS_LOG", "false");
        let process = on(program, server, folder.path()).start().await;
        let mut shop = Shop::open(folder.path()).await?;
        let products = Arc::new(shop.fill(PRODUCTS).await?);
        let ann = json!({"email": "ann@example.com", "password": "correct horse"});
        shop.token.clear();
        shop.post("/v1/users:register", &ann).await?;
        let buyer = text(&shop.post("/v1/sessions:logIn", &ann).await?["accessToken"]);
        let address = shop.gateway.trim_start_matches("http://").to_owned();
        Ok(Self { process, server, folder, address, buyer, products, answered: AtomicU64::new(0) })
    }

    /// Places orders over REST.
    fn rest(&self, demand: Demand) -> Target {
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
        let confirmed = |answer: &Bytes| answer.windows(17).any(|text| text == br#""STATE_CONFIRMED""#);
        self.target("/v1/orders", Call::Post(body), confirmed)
    }

    /// Places orders over gRPC.
    fn grpc(&self, demand: Demand) -> Target {
        let body = self.body(demand, |request| request.encode_to_vec().into());
        let confirmed =
            |answer: &Bytes| Order::decode(answer.slice(5..)).is_ok_and(|order| order.state() == State::Confirmed);
        self.target("/souk.order.v1.OrderService/PlaceOrder", Call::Grpc(body), confirmed)
    }

    fn target(&self, path: &str, call: Call, check: fn(&Bytes) -> bool) -> Target {
        let (address, token) = (self.address.clone(), self.buyer.clone());
        Target { address, path: path.to_owned(), call, token, check: Arc::new(check) }
    }

    /// Each request anew: a key of its own, and products by the demand.
    fn body(&self, demand: Demand, write: fn(&PlaceOrderRequest) -> Bytes) -> Body {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let products = self.products.clone();
        let weights = zipf(products.len() / 2);
        Arc::new(move || {
            let half = products.len() / 2;
            let pick = |from: usize, quantity: i64| {
                let index = match demand {
                    Demand::Uniform => rand::random_range(0..half),
                    Demand::Zipf => weights.partition_point(|sum| *sum < rand::random::<f64>()).min(half - 1),
                    Demand::One => 0,
                };
                Item { product: products[from + index].clone(), quantity, unit_price: None }
            };
            let items = match demand {
                Demand::One => vec![pick(0, 1)],
                // As pgbench has it: one piece of one half of the products, two of the other.
                Demand::Uniform | Demand::Zipf => vec![pick(0, 1), pick(half, 2)],
            };
            write(&PlaceOrderRequest {
                request_id: format!("bench-{}", KEYS.fetch_add(1, Relaxed)),
                items,
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

    async fn turn(&self, rounds: &Rounds, buyers: usize, target: Target) -> Result<Figures> {
        let warm = load::run(&target, buyers, WARM).await?;
        let (before, own_before) = self.usage()?;
        let turn = load::run(&target, buyers, rounds.turn()).await?;
        let (after, own_after) = self.usage()?;
        self.answered.fetch_add(warm.count + turn.count, Relaxed);
        let thousands = turn.count as f64 / 1000.0;
        let milliseconds = |quantile| turn.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Figures {
            rate: turn.count as f64 / turn.elapsed.as_secs_f64(),
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            cpu_per_1000: (after - before) / thousands,
            own_cpu_per_1000: (own_after.cpu - own_before.cpu) / thousands,
            own_resident_mib: own_after.resident as f64 / f64::from(1 << 20),
        })
    }

    /// CPU seconds of souk and its database, and what souk alone has used.
    fn usage(&self) -> Result<(f64, crate::process::Usage)> {
        let own = usage(&[self.process.pid()])?;
        let database = self.server.map(|server| usage_of_tree(server.pid())).transpose()?.unwrap_or_default();
        Ok((own.cpu + database.cpu, own))
    }

    /// The promises, and that every order that was answered is there.
    async fn check(&self, binary: &Path) -> Result<()> {
        let verify = on(Program::new(binary, "never ready").arg("verify"), self.server, self.folder.path());
        let (status, log) = verify.deadline(Duration::from_secs(300)).run().await;
        ensure!(status.success(), "a promise is broken: {log}");
        if let Some(server) = self.server {
            let stored = floor::query(server, "souk_order", "SELECT count(*) FROM orders WHERE state = 'CONFIRMED'")?;
            let answered = self.answered.load(Relaxed);
            ensure!(stored.parse::<u64>()? == answered, "{answered} orders answered, {stored} stored");
        }
        Ok(())
    }
}

/// The program on its databases and folder.
fn on(program: Program, server: Option<&Server>, folder: &Path) -> Program {
    let program = program.arg("--data-dir").arg(folder).env("SOUK_TELEMETRY__METRICS_LISTEN", "");
    let Some(server) = server else { return program };
    SERVICES.into_iter().fold(program, |program, service| {
        let url = format!("postgres://postgres@127.0.0.1:{}/souk_{service}", server.port());
        program.env(format!("SOUK_{}__DATABASE__URL", service.to_uppercase()), url)
    })
}

/// Up to which number of [0, 1) each of so many ranks is picked, rank n with weight 1/n^1.1.
fn zipf(ranks: usize) -> Vec<f64> {
    let weights = (1..=ranks).map(|rank| (rank as f64).powf(-1.1));
    let total: f64 = weights.clone().sum();
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight / total;
        Some(*sum)
    });
    sums.collect()
}
