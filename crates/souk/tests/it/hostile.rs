//! One address does its worst; another one does not notice. Each attack against `souk up` as it comes, on SQLite, and all
//! of them at once: the other address is never refused, memory stays bounded, and all is released afterwards.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use souk_testkit::hostile::{Attack, Attacker, Tally, allow_many_connections};
use tokio_util::sync::CancellationToken;

use super::{
    cluster::Up,
    rest::{Rest, order},
};

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// How long each of two attacks lasts.
const ATTACKED: Duration = Duration::from_secs(4);
/// Files that the attacker and souk must be able to open: a connection is one, and there are some 12,000.
const FILES: u64 = 16_384;
/// Products, with titles that make a page of 500 about 1 MiB.
const PRODUCTS: usize = 500;
/// The most that may ever be resident.
const MOST: u64 = 512 << 20;
/// What a second attack like the first may still add to the most that was resident: more is a leak.
const GROWTH: u64 = 64 << 20;
/// How long it may take until what an attacker held that has left is released.
const RELEASED: Duration = Duration::from_secs(20);
/// Files that souk may have open afterwards beside those that it had before, for connections of the honest client.
const SPARE_FILES: usize = 16;
/// Between two requests of the honest client, as a person makes them.
const THINKS: Duration = Duration::from_millis(50);

/// What an honest client met with.
#[derive(Default)]
struct Visit {
    answers: AtomicU64,
    slowest_ms: AtomicU64,
    refused: std::sync::Mutex<Vec<String>>,
}

impl Visit {
    /// Asks, and counts anything but success. The client gives up after 20 s, as apps do.
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
            Ok(answer) => format!("{} {}", answer.status, answer.body["reason"]),
            Err(error) => format!("{:?}", std::error::Error::source(&error)),
        };
        self.refused.lock().unwrap().push(format!("{path} after {time:.1?}: {refusal}"));
        None
    }
}

/// A shop with an honest customer and a hostile one.
struct Shop {
    up: Up,
    product: String,
    honest: Rest,
    attacker: Attacker,
    /// The attacker's account.
    hostile: Rest,
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
        let target: SocketAddr = up.gateway.trim_start_matches("http://").parse().unwrap();
        let attacker = Attacker { from: ATTACKER, target, token: hostile.token().map(str::to_owned) };
        Self { up, product, honest, attacker, hostile }
    }

    /// Reads, orders and logs in until `end`, each beside the others.
    async fn visit(&self, end: &CancellationToken, round: &str) -> Visit {
        let visit = Visit::default();
        let pause = || end.run_until_cancelled(tokio::time::sleep(THINKS));
        let reads = async {
            let path = format!("/v1/{}", self.product);
            while pause().await.is_some() {
                visit.ask(&self.honest, Method::GET, &path, None).await;
                // On a connection of its own.
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
            // Few: they have a small budget of their own.
            while end.run_until_cancelled(tokio::time::sleep(20 * THINKS)).await.is_some() {
                let body = json!({"email": "honest@example.com", "password": "correct horse"});
                let newcomer = Rest::from_address(&self.up.gateway, HONEST);
                visit.ask(&newcomer, Method::POST, "/v1/sessions:logIn", Some(body)).await;
            }
        };
        tokio::join!(reads, orders, log_ins);
        visit
    }

    /// One attack while the honest client is there.
    async fn round(&self, attacks: &[Attack], round: &str) -> (Visit, Tally) {
        let end = CancellationToken::new();
        let attack = async {
            let _end = end.clone().drop_guard();
            self.attacker.attack(attacks, ATTACKED).await
        };
        tokio::join!(self.visit(&end, round), attack)
    }

    fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.up.process.pid())).unwrap().count()
    }

    /// The most that was ever resident, in bytes.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.up.process.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Runs these attacks twice and holds souk to its promises.
async fn withstands(attacks: &[Attack]) {
    let shop = Shop::open().await;
    // Connections to the databases and between the services are made by now.
    let (visit, files) = (shop.visit(&after(ATTACKED / 5), "before").await, shop.open_files());
    assert_eq!(*visit.refused.lock().unwrap(), [""; 0], "refused without any attack");
    let mut faults = Vec::new();
    let mut peaks = Vec::new();
    for round in ["first", "second"] {
        let started = shop.peak();
        let (visit, tally) = shop.round(attacks, round).await;
        peaks.push(shop.peak());
        assert!(tally.opened > 0 && tally.sent > 0, "there was no attack: {tally:?}");
        let (answers, slowest) = (visit.answers.load(Relaxed), visit.slowest_ms.load(Relaxed));
        let refused = visit.refused.into_inner().unwrap();
        println!(
            "{round}: {answers} answers, {} refused, slowest {slowest} ms; at most {} MiB resident, {} before; {tally:?}",
            refused.len(),
            shop.peak() >> 20,
            started >> 20,
        );
        if !refused.is_empty() {
            let first = refused.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
            faults.push(format!(
                "{round}: {} of {} requests were refused: {first}",
                refused.len(),
                refused.len() as u64 + answers
            ));
        }
        if answers == 0 {
            faults.push(format!("{round}: not one request was answered"));
        }
        // What the attacker held is free: the system's files, and places for requests of its own.
        let left = released(&shop, files, round).await;
        faults.extend(left.map(|left| format!("{round}: {left}")));
    }
    if let [first, second] = peaks[..] {
        println!("peaks: {} MiB, {} MiB", first >> 20, second >> 20);
        if second > MOST {
            faults.push(format!("{} MiB were resident, more than {}", second >> 20, MOST >> 20));
        }
        if second.saturating_sub(first) > GROWTH {
            faults.push(format!(
                "memory grew from {} MiB to {} MiB by the same attack again",
                first >> 20,
                second >> 20
            ));
        }
    }
    assert!(faults.is_empty(), "{}\n\nlog:\n{}", faults.join("\n"), last_lines(&shop.up.process.log()));
}

/// Waits until all is released; what is not in time.
async fn released(shop: &Shop, files: usize, round: &str) -> Option<String> {
    let deadline = Instant::now() + RELEASED;
    let mut number = 0;
    loop {
        // Its connections may have been cut off, so it opens new ones.
        let hostile = Rest::from_address(&shop.up.gateway, ATTACKER).with_token(shop.hostile.token().unwrap());
        let body = order(&format!("{round}-released-{number}"), &[(&shop.product, 1)], "tok_approved");
        let read = hostile.send(Method::GET, "/v1/products?pageSize=2", None).await;
        let placed = hostile.send(Method::POST, "/v1/orders", Some(body)).await;
        let answers = [read, placed]
            .map(|answer| answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string()));
        drop(hostile);
        let open = shop.open_files();
        if answers.iter().all(|answer| answer == "200 OK") && open <= files + SPARE_FILES {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!(
                "{RELEASED:?} after the attack its address is answered {answers:?}, and {open} files are open, {files} before"
            ));
        }
        number += 1;
        tokio::time::sleep(2 * THINKS).await;
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

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_bodies() {
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
async fn all_attacks_at_once() {
    withstands(&Attack::ALL).await;
}
