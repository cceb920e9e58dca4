//! One address attacks while another one reads and orders at a steady rate. The result is how much slower the second
//! one is than without an attack.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use souk_testkit::hostile::{Attack, Attacker, allow_many_connections};
use tokio::time::Instant;

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    catalog,
    load::{
        self, Target,
        open::{self, Arrivals, Flow, milliseconds},
    },
    process::{Spent, forget_peak, peak},
    report::{Column, Goal, Report, Row, mib, plain, ranged},
    souk::{Place, Souk},
};

const CALM: &str = "no attack";
const ALL: &str = "all at once";
/// The time from the start of the attack until the other client connects.
const LEAD: Duration = Duration::from_secs(2);
/// The longest time that souk may take to recover after an attack.
const RECOVERS: Duration = Duration::from_secs(120);
/// The number of products: enough for pages of 500.
const PRODUCTS: usize = 2000;
/// Requests of the other client per second.
const READS: f64 = 100.0;
const ORDERS: f64 = 20.0;
/// The maximum number of requests that the other client has in flight.
const IN_FLIGHT: usize = 500;

/// The results of the other client, and the resources that were used.
#[derive(Debug, Serialize)]
struct Met {
    /// Milliseconds from the time when a read or an order was due to its good response.
    read_p50_ms: f64,
    read_p99_ms: f64,
    order_p50_ms: f64,
    order_p99_ms: f64,
    /// Requests that were refused with 429 or 503, and those that failed in another way or were never sent, in percent
    /// of all.
    refused_percent: f64,
    failed_percent: f64,
    /// CPU seconds per second of souk, and of both clients.
    souk_cores: f64,
    clients_cores: f64,
    /// The peak resident memory of souk, in MiB.
    peak_mib: f64,
}

impl Row for Met {
    const COLUMNS: &'static [Column<Self>] = &[
        ranged("read p99 ms", 1, |met| met.read_p99_ms),
        plain("p50 ms", 1, |met| met.read_p50_ms),
        ranged("order p99 ms", 1, |met| met.order_p99_ms),
        plain("p50 ms", 1, |met| met.order_p50_ms),
        plain("refused %", 1, |met| met.refused_percent),
        plain("failed %", 1, |met| met.failed_percent),
        plain("cores: souk", 2, |met| met.souk_cores),
        plain("clients", 2, |met| met.clients_cores),
        plain("peak MiB", 0, |met| met.peak_mib),
    ];
}

/// Runs the case `hostile`.
pub async fn run(rounds: &Rounds) -> Result<()> {
    allow_many_connections()?;
    // The default rate limits apply, because they are part of the defence.
    let limits = ("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "true");
    let souk = Souk::start(&rounds.souk()?, Place::Sqlite, &[limits]).await?;
    let buyers = Buyers::with(&souk, PRODUCTS).await?;
    let [read, ..] = catalog::reads(buyers.products.to_vec());
    let (read, order) = (read.over_rest(&souk), buyers.rest(Demand::Uniform));
    let token = souk.register("hostile@example.com", "correct horse").await?;
    let attacker = Attacker { from: [127, 0, 0, 2].into(), target: souk.gateway().parse()?, token: Some(token) };

    let alone = Attack::ALL.map(|attack| (attack.name(), vec![attack]));
    let attacks: Vec<_> = alone.into_iter().chain([(ALL, Attack::ALL.to_vec())]).collect();
    let mut report = Report::<Met>::new();
    for _ in 0..rounds.rounds {
        report.add(CALM, turn(rounds, &souk, (&read, &order), async {}).await.context(CALM)?);
        for (name, attacks) in &attacks {
            let attack = attacker.attack(attacks, LEAD + rounds.turn());
            let attack = async {
                let tally = attack.await;
                println!("{name}: {tally:?}");
            };
            report.add(name, turn(rounds, &souk, (&read, &order), attack).await.context(*name)?);
            recovered(&read).await.context(*name)?;
        }
        souk.check().await?;
        report.show_round();
    }
    for (name, _) in &attacks {
        for (what, of) in [("reads", (|met| met.read_p99_ms) as fn(&Met) -> f64), ("orders", |met| met.order_p99_ms)] {
            report.ratio(&format!("p99 of {what}, {name} / {CALM}"), Goal::AtMost(2.0), (name, of), (CALM, of));
        }
        let refused = |met: &Met| met.refused_percent + met.failed_percent;
        report.figure(&format!("refused or failed, {name}, %"), Goal::AtMost(0.0), (name, refused));
        report.figure(&format!("MiB resident, at most, {name}"), Goal::AtMost(512.0), (name, |met: &Met| met.peak_mib));
    }
    report.finish(rounds.json.as_deref())
}

/// Reads and orders while an attack runs, which began shortly before.
async fn turn(
    rounds: &Rounds,
    souk: &Souk<'_>,
    (read, order): (&Target, &Target),
    attack: impl Future<Output = ()>,
) -> Result<Met> {
    forget_peak(souk.pid())?;
    let (watch, started) = (souk.watch()?, Instant::now());
    let arrivals = |rate| Arrivals { rate, duration: rounds.turn(), in_flight: IN_FLIGHT };
    let visit = async {
        tokio::time::sleep(LEAD).await;
        tokio::try_join!(open::run(read, arrivals(READS)), open::run(order, arrivals(ORDERS)))
    };
    let (flows, ()) = tokio::join!(visit, attack);
    let (reads, orders) = flows?;
    souk.answered(orders.answered.len());
    for failure in [&reads, &orders].into_iter().filter_map(|flow| flow.failure.as_ref()) {
        println!("failed: {failure}");
    }
    Ok(Met::of(&reads, &orders, &watch.spent()?, started.elapsed(), peak(souk.pid())?))
}

/// Waits until the other client gets good responses again.
async fn recovered(read: &Target) -> Result<()> {
    let again = async {
        while load::once(read).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(RECOVERS, again).await.context("souk did not recover")
}

impl Met {
    fn of(reads: &Flow, orders: &Flow, spent: &Spent, elapsed: Duration, peak: u64) -> Self {
        let both = |of: fn(&Flow) -> u64| (of(reads) + of(orders)) as f64;
        let percent = |part: f64| part / both(|flow| flow.sent + flow.unsent) * 100.0;
        Self {
            read_p50_ms: milliseconds(&reads.answered, 0.5),
            read_p99_ms: milliseconds(&reads.answered, 0.99),
            order_p50_ms: milliseconds(&orders.answered, 0.5),
            order_p99_ms: milliseconds(&orders.answered, 0.99),
            refused_percent: percent(both(|flow| flow.refused.len())),
            failed_percent: percent(both(|flow| flow.failed + flow.unsent)),
            souk_cores: spent.own.cpu / elapsed.as_secs_f64(),
            clients_cores: spent.load.cpu / elapsed.as_secs_f64(),
            peak_mib: mib(peak),
        }
    }
}
