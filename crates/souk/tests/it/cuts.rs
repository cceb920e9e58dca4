//! Every network link between two parts of souk is cut under load, in two ways. No order is lost, errors in the
//! meantime are clear, and soon after the link is back everything works as before.

mod probes;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{SecondsFormat, Utc};
use reqwest::Method;
use serde_json::Value;
use souk_testkit::{
    db::Engine,
    process::Program,
    proxy::Proxy,
    servers::{self, Server, install},
    stripe::{API_KEY, Localstripe},
    wait,
};
use tokio_util::sync::CancellationToken;

use self::probes::Probes;
use super::{
    cluster::{Cluster, Ground},
    rest::Rest,
};

/// The longest time from the return of a link until everything works as before.
const NORMAL: Duration = Duration::from_secs(10);
/// The interval of each probe.
const EVERY: Duration = Duration::from_millis(400);
const SERVICES: [&str; 3] = ["user", "inventory", "order"];
const PUBLISHERS: [&str; 2] = ["inventory", "order"];

/// The two ways of cutting a link.
type Cut = (&'static str, fn(&Proxy));
const WAYS: [Cut; 2] = [("reset", Proxy::cut), ("swallowed", Proxy::stall)];

/// How long a link stays cut, and in which ways the link with this number is cut. With `SOUK_TEST_CUT=30s`, each link
/// is cut in both ways, as promised; `SOUK_TEST_LINK=NATS` selects the links with that name. Otherwise each link is cut
/// for a moment in one way, and in the other way on the other engine.
fn plan(engine: Engine, number: usize) -> (Duration, Vec<Cut>) {
    match std::env::var("SOUK_TEST_CUT") {
        Ok(text) => (humantime::parse_duration(&text).unwrap(), WAYS.to_vec()),
        Err(_) => (Duration::from_secs(1), vec![WAYS[(number + usize::from(engine == Engine::Postgres)) % 2]]),
    }
}

/// A proxy in each link.
struct Links {
    /// From the gateway to each service.
    gateway: [Proxy; 3],
    stock: Proxy,
    /// From the services to the keys that verify access tokens.
    keys: Proxy,
    /// From each service to its database, if that is a server.
    databases: Vec<(Proxy, String)>,
    /// From inventory and order to NATS.
    nats: Option<([Proxy; 2], Server)>,
    /// From orders to Stripe, if orders are paid there.
    stripe: Option<(Proxy, Localstripe)>,
}

impl Links {
    async fn within(ground: &Ground, at_stripe: bool) -> Self {
        let to = async |service: usize| Proxy::start(format!("127.0.0.1:{}", ground.ports[service])).await;
        let (mut databases, mut nats) = (Vec::new(), None);
        if ground.databases[0].engine == Engine::Postgres {
            for database in &ground.databases {
                let proxy = Proxy::before(&database.url).await;
                let url = proxy.url(&database.url);
                databases.push((proxy, url));
            }
            install::ensure("NATS", "nats-server", "nats-server").unwrap();
            let server = tokio::task::spawn_blocking(servers::nats).await.unwrap().unwrap();
            nats = Some(([Proxy::before(server.url()).await, Proxy::before(server.url()).await], server));
        }
        let stripe = if at_stripe {
            let stripe = Localstripe::start().await;
            Some((Proxy::start(stripe.address()).await, stripe))
        } else {
            None
        };
        let gateway = [to(0).await, to(1).await, to(2).await];
        Self { gateway, stock: to(1).await, keys: to(0).await, databases, nats, stripe }
    }

    /// The payment token of orders.
    fn token(&self) -> &'static str {
        if self.stripe.is_some() { "pm_card_visa" } else { "tok_approved" }
    }

    /// Sends a service's calls through the proxies.
    fn through(&self, service: &str, mut program: Program) -> Program {
        let address = |proxy: &Proxy| format!("http://{}", proxy.address());
        if service == "gateway" {
            for (name, proxy) in SERVICES.iter().zip(&self.gateway) {
                program = program.env(format!("SOUK_GATEWAY__BACKENDS__SOUK__{}", name.to_uppercase()), address(proxy));
            }
            return program.env("SOUK_GATEWAY__ACCESS_LOG", "false");
        }
        let own = service.to_uppercase();
        if service == "user" {
            // With the full length, the test takes longer than an access token is valid.
            program = program.env("SOUK_USER__ACCESS_TOKEN_TTL", "1h");
        } else {
            program = program.env(format!("SOUK_{own}__CLIENTS__USER__ADDRESS"), address(&self.keys));
        }
        if service == "order" {
            program = program.env("SOUK_ORDER__PAYMENT__SLOW_DELAY", "300ms");
            program = program.env("SOUK_ORDER__CLIENTS__INVENTORY__ADDRESS", address(&self.stock));
            if let Some((proxy, _)) = &self.stripe {
                program = program
                    .env("SOUK_ORDER__PAYMENT__PROVIDER", "stripe")
                    .env("SOUK_ORDER__PAYMENT__STRIPE__API_KEY", API_KEY)
                    .env("SOUK_ORDER__PAYMENT__STRIPE__API_BASE", address(proxy));
            }
        }
        if let Some((proxies, _)) = &self.nats
            && let Some((_, proxy)) = PUBLISHERS.iter().zip(proxies).find(|(name, _)| **name == service)
        {
            program = program.env("SOUK_EVENTS__NATS_URL", format!("nats://{}", proxy.address()));
        }
        match SERVICES.iter().zip(&self.databases).find(|(name, _)| **name == service) {
            Some((_, (_, url))) => program.env(format!("SOUK_{own}__DATABASE__URL"), url),
            None => program,
        }
    }

    /// All links. With Stripe, only the link to Stripe.
    fn all(&self) -> Vec<(String, &Proxy)> {
        if let Some((proxy, _)) = &self.stripe {
            return vec![("order to Stripe".to_owned(), proxy)];
        }
        let gateway = SERVICES.iter().zip(&self.gateway).map(|(name, proxy)| (format!("gateway to {name}"), proxy));
        let databases =
            SERVICES.iter().zip(&self.databases).map(|(name, (proxy, _))| (format!("{name} to its database"), proxy));
        let nats = self.nats.iter().flat_map(|(proxies, _)| PUBLISHERS.iter().zip(proxies));
        let nats = nats.map(|(name, proxy)| (format!("{name} to NATS"), proxy));
        let others =
            [("order to inventory".to_owned(), &self.stock), ("inventory and order to user".to_owned(), &self.keys)];
        gateway.chain(others).chain(databases).chain(nats).collect()
    }
}

/// The number of orders that were recorded before a time and are not final.
async fn unfinished(admin: &Rest, before: &str) -> usize {
    let mut count = 0;
    for state in ["STATE_PENDING", "STATE_CANCELLING"] {
        let filter = format!("state = {state} AND create_time <= \"{before}\"");
        let request = admin.request(Method::GET, "/v1/orders").query(&[("filter", &*filter), ("pageSize", "500")]);
        let orders: Value = request.send().await.unwrap().json().await.unwrap();
        count += orders["orders"].as_array().unwrap().len();
    }
    count
}

/// The number of events of a service that are not in NATS yet.
async fn unpublished(database: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let behind = "SELECT (SELECT last FROM event_head) - (SELECT position FROM event_readers WHERE reader = 'nats')";
    client.query_one(behind, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_links_break_no_promise_sqlite() {
    faults_of_links_break_no_promise(Engine::Sqlite, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_links_break_no_promise_postgres() {
    faults_of_links_break_no_promise(Engine::Postgres, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_link_to_stripe_break_no_promise_sqlite() {
    faults_of_links_break_no_promise(Engine::Sqlite, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_link_to_stripe_break_no_promise_postgres() {
    faults_of_links_break_no_promise(Engine::Postgres, true).await;
}

async fn faults_of_links_break_no_promise(engine: Engine, at_stripe: bool) {
    let ground = Ground::new(engine).await;
    let links = Links::within(&ground, at_stripe).await;
    let databases = [ground.databases[1].url.clone(), ground.databases[2].url.clone()];
    let cluster = Cluster::on(ground, false, |service, program| links.through(service, program)).await;
    let mut buyers = cluster.prove().args(["--duration", "1h", "--buyers"]);
    // The stand-in for Stripe writes all its data to disk with each change. More buyers would only wait for it.
    buyers = if at_stripe { buyers.args(["1", "--payment-token", links.token()]) } else { buyers.args(["2"]) };
    let mut buyers = buyers.start().await;
    let (probes, stop) = (Arc::new(Probes::new(&cluster, links.token()).await), CancellationToken::new());
    let probing = tokio::spawn(probes.clone().run(stop.clone()));

    let mut normal_since = Instant::now();
    let wanted = std::env::var("SOUK_TEST_LINK").unwrap_or_default();
    for (number, (name, link)) in links.all().into_iter().enumerate().filter(|(_, (name, _))| name.contains(&wanted)) {
        let (how_long, ways) = plan(engine, number);
        for (how, cut) in ways {
            let began = Instant::now();
            // Requests that are running when the link breaks may fail, too.
            let under_way = EVERY * 2;
            let before = probes.failures(normal_since, began - under_way);
            assert!(before.is_empty(), "before {name} is {how}: {before:#?}\n{}", cluster.logs());
            cut(link);
            tokio::time::sleep(how_long).await;
            link.restore();
            let (back, at) = (Instant::now(), Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
            let answered = probes.recovered(back).await;
            let answered = answered.unwrap_or_else(|why| panic!("{name}, {how}: {why}\n{}", cluster.logs()));
            wait::until(NORMAL * 2, "the orders of that time to be final", async || {
                unfinished(&probes.admin, &at).await == 0
            })
            .await;
            let last_order = back.elapsed();
            if engine == Engine::Postgres {
                wait::until(NORMAL * 2, "the events of that time to be published", async || {
                    // All of them, except the events of this moment.
                    unpublished(&databases[0]).await < 200 && unpublished(&databases[1]).await < 200
                })
                .await;
            }
            let published = back.elapsed();
            normal_since = back + answered;
            let failures = probes.failures(began - under_way, normal_since);
            println!(
                "{engine}, {name}, {how} for {:?}: {} failed; answered again after {answered:.1?}, orders final after \
                 {last_order:.1?}, events out after {published:.1?}",
                how_long,
                failures.len(),
            );
            assert!(answered <= NORMAL, "{name}, {how}: {failures:#?}\n{}", cluster.logs());
            if (name.starts_with("gateway") || at_stripe) && how == "reset" {
                assert!(!failures.is_empty(), "nobody noticed that {name} was {how}");
            }
            if name.ends_with("NATS") {
                assert!(failures.is_empty(), "orders waited for NATS: {failures:#?}");
            }
        }
    }

    stop.cancel();
    probing.await.unwrap();
    let late = probes.failures(normal_since, Instant::now());
    assert!(late.is_empty(), "{late:#?}\n{}", cluster.logs());
    let unclear = probes.unclear.lock().unwrap().clone();
    assert!(unclear.is_empty(), "{unclear:#?}\n{}", cluster.logs());
    // `souk prove` looks for lost, doubled and oversold orders in the responses of its buyers, and runs `souk verify`.
    let status = buyers.terminate(Duration::from_secs(120)).await;
    println!("{}", buyers.log());
    assert!(status.success(), "{}\n{}", buyers.log(), cluster.logs());
    let confirmed = probes.confirmed.lock().unwrap().clone();
    assert!(confirmed.len() > 5, "only {} orders were confirmed", confirmed.len());
    for name in confirmed {
        let order = probes.customer.get(&format!("/v1/{name}")).await.ok();
        assert_eq!(order["state"], "STATE_CONFIRMED", "{order}");
    }
    cluster.verify().await;
}
