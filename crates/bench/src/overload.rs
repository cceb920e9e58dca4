//! Overload: more orders than souk can place. souk must place orders at its peak rate, refuse the rest quickly, and
//! recover afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use souk_testkit::servers;

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    load::open::{self, Arrivals, Flow, milliseconds},
    process::Spent,
    report::{Column, Figures, Goal, Report, Row, mib, plain, ranged},
    souk::{Place, Souk},
};

const PEAK: &str = "closed loop: the peak";
/// The numbers of closed-loop connections that are tried to find the peak rate.
const BUYERS: [usize; 4] = [64, 128, 256, 400];
/// The offered load, in multiples of the peak rate.
const LEVELS: [(&str, f64); 7] = [
    ("0.7 x peak", 0.7),
    ("1 x peak", 1.0),
    ("2 x peak", 2.0),
    ("5 x peak", 5.0),
    ("10 x peak", 10.0),
    ("1 x peak again", 1.0),
    ("0.7 x peak again", 0.7),
];
const LOW: &str = LEVELS[0].0;
const HIGHEST: &str = LEVELS[4].0;
const LOW_AGAIN: &str = LEVELS[6].0;

/// The results at a level of load.
#[derive(Debug, Serialize)]
struct Level {
    /// Confirmed orders per second.
    goodput: f64,
    /// Requests sent per second. This is less than the offered load if all connections were busy.
    sent: f64,
    /// Requests that were due but never sent, because no connection became free in time, in percent.
    unsent_percent: f64,
    /// Refused requests, in percent of those sent.
    refused_percent: f64,
    /// Milliseconds from when a request was due to its good response.
    p50_ms: f64,
    p99_ms: f64,
    /// Milliseconds from when a request was due to its refusal.
    refused_p50_ms: f64,
    refused_p99_ms: f64,
    /// CPU seconds per second of souk, its database, and the load generator.
    souk_cores: f64,
    database_cores: f64,
    load_cores: f64,
    /// Resident memory of souk at the end, in MiB.
    resident_mib: f64,
}

impl Row for Level {
    const COLUMNS: &'static [Column<Self>] = &[
        ranged("goodput/s", 0, |level| level.goodput),
        plain("sent/s", 0, |level| level.sent),
        plain("unsent %", 1, |level| level.unsent_percent),
        plain("refused %", 1, |level| level.refused_percent),
        plain("p50 ms", 1, |level| level.p50_ms),
        plain("p99 ms", 1, |level| level.p99_ms),
        plain("refused p50", 1, |level| level.refused_p50_ms),
        plain("p99", 1, |level| level.refused_p99_ms),
        plain("cores: souk", 2, |level| level.souk_cores),
        plain("database", 2, |level| level.database_cores),
        plain("load", 2, |level| level.load_cores),
        plain("MiB", 0, |level| level.resident_mib),
    ];
}

/// Runs the case `overload`.
pub async fn run(rounds: &Rounds, in_flight: usize) -> Result<()> {
    let server = servers::postgres()?;
    // All load comes from one address, which has more connections than a client may have by default.
    let connections = ("SOUK_GATEWAY__MAX_CONNECTIONS_PER_ADDRESS", "10000");
    let souk = Souk::start(&rounds.souk()?, Place::Postgres(&server, "souk"), &[connections]).await?;
    let target = Buyers::of(&souk).await?.rest(Demand::Uniform);

    let mut best = (0.0, 0);
    for buyers in BUYERS {
        let peak = souk.orders(&target, buyers, rounds.turn()).await?;
        best = if peak.rate > best.0 { (peak.rate, buyers) } else { best };
    }
    let (_, buyers) = best;
    println!("the peak is sought with {buyers} connections, the best of {BUYERS:?}");

    let mut report = Report::<Level>::new();
    for _ in 0..rounds.rounds {
        let peak = souk.orders(&target, buyers, rounds.turn()).await.context(PEAK)?;
        let rate = peak.rate;
        report.add(PEAK, Level::at_peak(&peak));
        for (name, times) in LEVELS {
            let watch = souk.watch()?;
            let arrivals = Arrivals { rate: rate * times, duration: rounds.turn(), in_flight };
            let flow = open::run(&target, arrivals).await.context(name)?;
            let failure = flow.failure.as_deref().unwrap_or_default();
            ensure!(flow.failed == 0, "{name}: {} of {} requests failed, first: {failure}", flow.failed, flow.sent);
            souk.answered(flow.answered.len());
            report.add(name, Level::of(&flow, arrivals.duration, &watch.spent()?));
        }
        souk.check().await?;
        report.show_round();
    }
    let (goodput, p50, p99) = (|l: &Level| l.goodput, |l: &Level| l.p50_ms, |l: &Level| l.p99_ms);
    report.ratio("goodput at 10 x peak / peak", Goal::AtLeast(0.9), (HIGHEST, goodput), (PEAK, goodput));
    report.ratio("p99 / p50 at 0.7 x peak", Goal::AtMost(10.0), (LOW, p99), (LOW, p50));
    report.ratio(
        "p50 of refusals at 10 x / of answers at 0.7 x",
        Goal::Open,
        (HIGHEST, |l| l.refused_p50_ms),
        (LOW, p50),
    );
    report.ratio("p99 at 0.7 x after the overload / before it", Goal::Open, (LOW_AGAIN, p99), (LOW, p99));
    report.finish(rounds.json.as_deref())
}

impl Level {
    fn of(flow: &Flow, duration: Duration, spent: &Spent) -> Self {
        let percent = |part: u64, whole: u64| part as f64 / whole as f64 * 100.0;
        let seconds = flow.elapsed.as_secs_f64();
        let whole = duration.as_secs_f64().max(seconds);
        Self {
            goodput: flow.answered.len() as f64 / seconds,
            sent: flow.sent as f64 / duration.as_secs_f64(),
            unsent_percent: percent(flow.unsent, flow.sent + flow.unsent),
            refused_percent: percent(flow.refused.len(), flow.sent),
            p50_ms: milliseconds(&flow.answered, 0.5),
            p99_ms: milliseconds(&flow.answered, 0.99),
            refused_p50_ms: milliseconds(&flow.refused, 0.5),
            refused_p99_ms: milliseconds(&flow.refused, 0.99),
            souk_cores: spent.own.cpu / whole,
            database_cores: spent.others.cpu / whole,
            load_cores: spent.load.cpu / whole,
            resident_mib: mib(spent.own.resident),
        }
    }

    fn at_peak(peak: &Figures) -> Self {
        let cores = |cpu_per_1000: f64| cpu_per_1000 * peak.rate / 1000.0;
        Self {
            goodput: peak.rate,
            sent: peak.rate,
            unsent_percent: 0.0,
            refused_percent: 0.0,
            p50_ms: peak.p50_ms,
            p99_ms: peak.p99_ms,
            refused_p50_ms: f64::NAN,
            refused_p99_ms: f64::NAN,
            souk_cores: cores(peak.own_cpu_per_1000),
            database_cores: cores(peak.cpu_per_1000 - peak.own_cpu_per_1000),
            load_cores: cores(peak.load_cpu_per_1000),
            resident_mib: peak.own_resident_mib,
        }
    }
}
