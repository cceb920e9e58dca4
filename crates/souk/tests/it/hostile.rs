//! One address attacks, and another one is not affected. Each attack runs alone and together with all others, against
//! `souk up` with default settings on SQLite. The other address is never refused, memory stays limited, and everything
//! is released afterwards.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use souk_testkit::hostile::{Attack, Attacker, Tally, allow_many_connections};
use tokio_util::sync::CancellationToken;

use super::{
    cluster::Up,
    rest::{Answer, Rest, order},
};

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// The duration of each of the two runs of an attack.
const ATTACKED: Duration = Duration::from_secs(4);
/// The number of files that the attacker and souk must be able to open: about 12,000 connections.
const FILES: u64 = 16_384;
/// The number of products. Their titles make a page of 500 about 1 MiB long.
const PRODUCTS: usize = 500;
/// The most resident memory at any time, in bytes.
const MOST: u64 = 512 << 20;
/// How long it may take to release everything that the attacker held.
const RELEASED: Duration = Duration::from_secs(20);
/// The number of files that souk may have open afterwards in addition to those before: reused connections.
const SPARE_FILES: usize = 16;
/// The pause between two requests of the honest client, about that of a person.
const THINKS: Duration = Duration::from_millis(50);

/// The results of an honest client.
#[derive(Default)]
struct Visit {
    answers: AtomicU64,
    slowest_ms: AtomicU64,
    refused: Mutex<Vec<String>>,
}

impl Visit {
    /// Sends a request, and counts everything except success. The client times out after 20 s, as apps do.
    async fn ask(&self, client: &Rest, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
        let started = Instant::now();
        let answer = client.send(method, path, body).await;
        let time = started.elapsed();
        self.slowest_ms.fetch_max(u64::try_from(time.as_millis()).unwrap(), Relaxed);
        let refusal = match answer {
            Ok(answer) if answer.status.is_success() => {
                self.answers.fetch_add(1, Relaxed);
                return Some(answer.body);
            }
            // The order is recorded but not final: the error asks to retry.
            Ok(answer) if answer.body["reason"] == "REQUEST_IN_PROGRESS" => return None,
            Ok(answer) => format!("{} {}", answer.status, answer.body["reason"]),
            Err(error) => format!("{:?}", std::error::Error::source(&error)),
        };
        self.refused.lock().unwrap().push(format!("{path} after {time:.1?}: {refusal}"));
        None
    }
}

/// What souk has open.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    requests: usize,
}

/// A shop with an honest customer and a hostile one.
struct Shop {
    up: Up,
    product: String,
    honest: Rest,
    /// The attacker, who is signed in with their own account.
    attacker: Attacker,
}

impl Shop {
    async fn open() -> Self {
        let files = allow_many_connections().unwrap();
        assert!(files >= FILES, "this test opens {FILES} files, and the system allows {files} (ulimit -Hn)");
        let up = Up::start().await;
        let admin = up.admin().await;
        let product = admin.product("LANTERN", 1_000_000).await;
        let price = json!({"currencyCode": "EUR", "units": "12"});
        let title = "a brass lantern with a long title ".repeat(5);
        let products: Vec<_> = (0..PRODUCTS)
            .map(|number| json!({"sku": format!("P-{number}"), "title": title, "price": price, "description": title.repeat(10)}))
            .collect();
        admin.post("/v1/products:batchUpsert", json!({ "products": products })).await.ok();
        let honest = Rest::from_address(&up.gateway, HONEST).customer("honest").await;
        let hostile = Rest::from_address(&up.gateway, ATTACKER).customer("hostile").await;
        let target = up.gateway.trim_start_matches("http://").parse().unwrap();
        let attacker = Attacker { from: ATTACKER, target, token: hostile.token().map(str::to_owned) };
        Self { up, product, honest, attacker }
    }

    /// The address of a service, from the start-up output.
    fn service(&self, name: &str) -> SocketAddr {
        let log = self.up.process.log();
        let mut words = log.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let address = words.find_map(|words| match words[..] {
            [service, address, "(gRPC)"] if service == name => Some(address.parse()),
            _ => None,
        });
        address.unwrap().unwrap()
    }

    /// Reads, orders and logs in concurrently until `end`.
    async fn visit(&self, end: &CancellationToken, round: &str) -> Visit {
        let visit = Visit::default();
        let pause = || end.run_until_cancelled(tokio::time::sleep(THINKS));
        let reads = async {
            let path = format!("/v1/{}", self.product);
            while pause().await.is_some() {
                visit.ask(&self.honest, Method::GET, &path, None).await;
                // On a new connection.
                let newcomer = Rest::from_address(&self.up.gateway, HONEST);
                visit.ask(&newcomer, Method::GET, "/v1/products?pageSize=5", None).await;
            }
        };
        let orders = async {
            for number in 0.. {
                if pause().await.is_none() {
                    break;
                }
                let body = order(&format!("{round}-{number}"), &[(&self.product, 1)], "tok_approved");
                if let Some(placed) = visit.ask(&self.honest, Method::POST, "/v1/orders", Some(body)).await {
                    assert_eq!(placed["state"], "STATE_CONFIRMED", "{placed}");
                }
            }
        };
        let log_ins = async {
            // Only a few: log-ins have a small budget.
            while end.run_until_cancelled(tokio::time::sleep(20 * THINKS)).await.is_some() {
                let body = json!({"email": "honest@example.com", "password": "correct horse"});
                let newcomer = Rest::from_address(&self.up.gateway, HONEST);
                visit.ask(&newcomer, Method::POST, "/v1/sessions:logIn", Some(body)).await;
            }
        };
        tokio::join!(reads, orders, log_ins);
        visit
    }

    /// Runs one attack beside the honest client.
    async fn round(&self, attacks: &[Attack], round: &str) -> (Visit, Tally) {
        let end = CancellationToken::new();
        let attack = async {
            let _end = end.clone().drop_guard();
            self.attacker.attack(attacks, ATTACKED).await
        };
        tokio::join!(self.visit(&end, round), attack)
    }

    /// The resources that souk holds for clients: open files and running requests.
    async fn held(&self) -> Held {
        let files = fs::read_dir(format!("/proc/{}/fd", self.up.process.pid())).unwrap().count();
        let log = self.up.process.log();
        let metrics = log.split_whitespace().find(|word| word.ends_with("/metrics")).unwrap();
        let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
        let active = metrics.lines().filter(|line| line.contains("_active_requests{"));
        let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        Held { files, requests: active.map(count).sum::<f64>() as usize }
    }

    /// The largest resident memory so far, in bytes.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.up.process.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Runs these attacks on the gateway and checks souk's promises.
async fn withstands(attacks: &[Attack]) {
    Shop::open().await.withstands(attacks).await;
}

impl Shop {
    /// Runs these attacks twice: resources that the first run leaked would show in the second.
    async fn withstands(&self, attacks: &[Attack]) {
        // Connections to the databases and between the services exist afterwards.
        let visit = self.visit(&after(ATTACKED / 4), "before").await;
        assert!(visit.refused.lock().unwrap().is_empty(), "refused without an attack: {:?}", visit.refused);
        let before = self.held().await;
        let mut faults = Vec::new();
        for round in ["first", "second"] {
            let (visit, tally) = self.round(attacks, round).await;
            assert!(tally.opened > 0 && tally.sent > 0, "there was no attack: {tally:?}");
            let (answers, slowest) = (visit.answers.load(Relaxed), visit.slowest_ms.load(Relaxed));
            let (refused, peak) = (visit.refused.into_inner().unwrap(), self.peak());
            println!(
                "{round}: {answers} answers, {} refused, slowest {slowest} ms; {} MiB resident at most; {tally:?}",
                refused.len(),
                peak >> 20,
            );
            faults.extend(refused.first().map(|first| format!("{round}: {} refused: {first}", refused.len())));
            faults.extend((answers == 0).then(|| format!("{round}: no request was answered")));
            faults.extend((peak > MOST).then(|| format!("{round}: {} MiB resident", peak >> 20)));
            let kept = self.kept(before, round).await;
            faults.extend(kept.map(|kept| format!("{round}: {RELEASED:?} after the attack {kept}")));
        }
        let log = self.up.process.log();
        let end = log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
        assert!(faults.is_empty(), "{}\n\nthe end of the log, backwards:\n{end}", faults.join("\n"));
    }

    /// Waits until everything that the attacker held is released: files, places for requests, budgets of its address.
    /// Returns what is not released in time.
    async fn kept(&self, before: Held, round: &str) -> Option<String> {
        let deadline = Instant::now() + RELEASED;
        for number in 0.. {
            // On a new connection, because the old ones may have been closed.
            let hostile = Rest::from_address(&self.up.gateway, ATTACKER);
            let hostile = hostile.with_token(self.attacker.token.as_deref().unwrap());
            let body = order(&format!("{round}-after-{number}"), &[(&self.product, 1)], "tok_approved");
            let read = hostile.send(Method::GET, "/v1/products?pageSize=2", None).await;
            let placed = hostile.send(Method::POST, "/v1/orders", Some(body)).await;
            drop(hostile);
            let status = |answer: reqwest::Result<Answer>| answer.map(|answer| answer.status).ok();
            let (answers, held) = ([status(read), status(placed)], self.held().await);
            let released = held.files <= before.files + SPARE_FILES && held.requests <= before.requests;
            if released && answers == [Some(StatusCode::OK); 2] {
                break;
            }
            if Instant::now() > deadline {
                return Some(format!("its address is answered {answers:?}, souk has {held:?}, and had {before:?}"));
            }
            tokio::time::sleep(2 * THINKS).await;
        }
        None
    }
}

fn after(time: Duration) -> CancellationToken {
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        ended.cancel();
    });
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_bodies() {
    withstands(&[Attack::HalfSent]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses() {
    withstands(&[Attack::Unread]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections() {
    withstands(&[Attack::Idle]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    withstands(&[Attack::Streams]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods() {
    withstands(&[Attack::Flood]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames() {
    withstands(&[Attack::Malformed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_at_a_service() {
    let mut shop = Shop::open().await;
    shop.attacker.target = shop.service("order");
    shop.withstands(&[Attack::Malformed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attacks_at_once() {
    withstands(&Attack::ALL).await;
}
