//! souk is stopped under load: running requests are answered, and later ones cannot connect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use souk_proto::order::v1::{WatchOrdersRequest, order_service_client::OrderServiceClient};
use souk_testkit::{db::Engine, wait};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};

use super::{
    cluster::{Cluster, Ground, Up, UpOn},
    rest::{Rest, order},
};

const LONG: Duration = Duration::from_secs(60);

/// Customers who order repeatedly until the gateway no longer accepts connections.
struct Load {
    customers: JoinSet<Result<(), String>>,
    /// The number of answered orders.
    answered: Arc<AtomicUsize>,
    /// The number of orders that were answered after the signal.
    after: Arc<AtomicUsize>,
    signal: CancellationToken,
}

impl Load {
    /// Starts customers over HTTP/1.1 and HTTP/2, with slow and fast payments.
    async fn start(gateway: &str, product: &str) -> Self {
        let mut load = Self {
            customers: JoinSet::new(),
            answered: Arc::default(),
            after: Arc::default(),
            signal: CancellationToken::new(),
        };
        for number in 0..12 {
            let shop = if number % 2 == 0 { Rest::anonymous(gateway) } else { Rest::over_http2(gateway) };
            let customer = shop.customer(&format!("customer{number}")).await;
            let (product, answered, after) = (product.to_owned(), load.answered.clone(), load.after.clone());
            let signal = load.signal.clone();
            load.customers.spawn(async move {
                for order_number in 0.. {
                    let token = if (number + order_number) % 3 == 0 { "tok_slow" } else { "tok_approved" };
                    let body = order(&format!("{number}-{order_number}"), &[(&product, 1)], token);
                    match customer.send(Method::POST, "/v1/orders", Some(body)).await {
                        Ok(answer) if answer.status == 200 && answer.body["state"] == "STATE_CONFIRMED" => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            after.fetch_add(usize::from(signal.is_cancelled()), Ordering::Relaxed);
                        }
                        Ok(answer) => return Err(format!("{number}-{order_number}: {answer:?}")),
                        // The port is closed. This is the only allowed failure.
                        Err(error) if error.is_connect() => return Ok(()),
                        Err(error) => return Err(format!("{number}-{order_number}: {error:?}")),
                    }
                }
                Ok(())
            });
        }
        wait::until(LONG, "orders", async || load.answered.load(Ordering::Relaxed) >= 40).await;
        load
    }

    /// Waits until no customer can connect any more. Returns how many orders were answered after the signal.
    async fn end(self) -> usize {
        let failed: Vec<_> = self.customers.join_all().await.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
        self.after.load(Ordering::Relaxed)
    }
}

async fn up_under_load(engine: Engine) {
    let mut souk = UpOn::start(engine, |program| {
        program.env("SOUK_ORDER__PAYMENT__SLOW_DELAY", "1500ms").env("SOUK_TELEMETRY__LOG_FORMAT", "json")
    })
    .await;
    let admin = souk.up.admin().await;
    let product = admin.product("LAMP", 1_000_000).await;
    let follower = Rest::anonymous(&souk.up.gateway).customer("follower").await;
    let mut stream = follower.request(Method::GET, "/v1/orders:watch").send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    let mut request = Request::new(WatchOrdersRequest::default());
    follower.sign(request.metadata_mut());
    let channel = Channel::from_shared(souk.up.gateway.clone()).unwrap().connect().await.unwrap();
    let mut calls = OrderServiceClient::new(channel).watch_orders(request).await.unwrap().into_inner();
    assert!(calls.message().await.unwrap().is_some());
    let load = Load::start(&souk.up.gateway, &product).await;

    load.signal.cancel();
    let began = Instant::now();
    let status = souk.up.process.terminate(LONG).await;
    let took = began.elapsed();
    let after = load.end().await;
    println!("{engine}: {after} orders were answered after the signal; it took {took:?}");
    let log = souk.up.process.log();
    assert!(status.success(), "{log}");
    assert!(after >= 4, "orders with slow payments were under way: {after}\n{log}");
    assert!(took < Duration::from_secs(15), "{took:?} although the slowest order takes 1.5 s\n{log}");
    assert!(!log.contains("were cancelled") && !log.contains("failed; will retry"), "{log}");

    // The stream told its client to reconnect. That is no failure: both responses had the status 200.
    let mut told = String::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        told.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(told.contains("SERVICE_UNAVAILABLE"), "{told}");
    assert_eq!(calls.message().await.unwrap_err().code(), Code::Unavailable);
    for route in ["/v1/orders:watch", "/souk.order.v1.OrderService/WatchOrders"] {
        let line = log.lines().find(|line| line.contains(&format!("\"{route}\"")) && line.contains("\"access\""));
        assert!(line.is_some_and(|line| line.contains("\"status\":200")), "{route}: {line:?}\n{log}");
    }
    souk.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_stops_under_load_and_no_order_fails_sqlite() {
    up_under_load(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_stops_under_load_and_no_order_fails_postgres() {
    up_under_load(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_reports_not_ready_and_serves_until_the_delay_ends() {
    const DELAY: Duration = Duration::from_secs(3);
    let mut cluster = Cluster::on(Ground::new(Engine::Sqlite).await, false, |service, program| match service {
        "gateway" => program.env("SOUK_GATEWAY__SHUTDOWN_DELAY", "3s"),
        "order" => program.env("SOUK_ORDER__PAYMENT__SLOW_DELAY", "1s"),
        _ => program,
    })
    .await;
    let product = cluster.admin().await.product("LAMP", 1_000_000).await;
    let gateway = cluster.gateway.clone();
    let load = Load::start(&gateway, &product).await;
    load.signal.cancel();
    let began = Instant::now();
    let answered = load.answered.clone();
    let watch = async {
        let shop = Rest::anonymous(&gateway);
        let not_ready = wait::value(DELAY, "readyz to say so", async || {
            let answer = shop.send(Method::GET, "/readyz", None).await.ok()?;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert_eq!((&not_ready.body["ready"], &not_ready.body["stopping"]), (&false.into(), &true.into()));
        assert!(began.elapsed() < DELAY / 2, "{:?}", began.elapsed());
        // Much later, new connections are still served.
        let before = answered.load(Ordering::Relaxed);
        wait::until(DELAY, "time to pass", async || began.elapsed() > DELAY / 2).await;
        Rest::anonymous(&gateway).get("/v1/products").await.ok();
        assert!(answered.load(Ordering::Relaxed) > before);
    };
    let (status, ()) = tokio::join!(cluster.gateway_process().terminate(LONG), watch);
    let took = began.elapsed();
    let after = load.end().await;
    println!("{after} orders were answered after the signal; it took {took:?}");
    let log = cluster.gateway_process().log();
    assert!(status.success(), "{log}");
    assert!((DELAY..DELAY + Duration::from_secs(10)).contains(&took), "{took:?}\n{log}");
    assert!(after > 20 && !log.contains("were cancelled"), "{after}\n{log}");
    let failed = |line: &&str| ["request refused", "request failed"].iter().any(|what| line.contains(what));
    let failed: Vec<_> = log.lines().filter(failed).filter(|line| !line.contains("/readyz")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    cluster.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_without_delay_and_sigterm_with_the_shutdown_delay() {
    // The gateway listens for other machines, as behind a load balancer, so a payment provider must be chosen.
    let everywhere = async || {
        let folder = tempfile::tempdir().unwrap();
        let program = super::cluster::souk().args(["up", "--listen", "0.0.0.0:0", "--data-dir"]).arg(folder.path());
        let program = program.env("SOUK_ORDER__PAYMENT__PROVIDER", "simulated");
        let process = program.env("SOUK_GATEWAY__SHUTDOWN_DELAY", "5s").start().await;
        (process, folder)
    };
    let (mut interrupted, _folder) = everywhere().await;
    let began = Instant::now();
    assert!(interrupted.interrupt(LONG).await.success());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(interrupted.log().contains("payments are simulated"), "{}", interrupted.log());

    let (mut by_signal, _folder) = everywhere().await;
    let began = Instant::now();
    assert!(by_signal.terminate(LONG).await.success());
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());

    // If the gateway listens only on the loopback interface, there is no load balancer to wait for.
    let mut up = Up::start().await;
    let began = Instant::now();
    assert!(up.process.terminate(LONG).await.success());
    let took_here = began.elapsed();
    println!("a signal {took:?}, on this machine alone {took_here:?}");
    assert!(took_here < Duration::from_secs(4), "{took_here:?}");
}
