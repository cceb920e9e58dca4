//! Growth: the same reads of a nearly empty shop and of shops with millions of rows.

use anyhow::{Context, Result};
use souk_testkit::servers;

use crate::{
    Rounds, catalog,
    filled::{Filled, Size},
    load::{self, Target},
    plans::Plans,
    report::{Figures, Goal, Report},
    souk::Place,
};

/// The number of connections. It is small, so that requests do not wait for each other.
const CONNECTIONS: usize = 2;

/// Runs the case `growth`. The other sizes are compared with the first one.
pub async fn run(rounds: &Rounds, sizes: &[Size], on_sqlite: bool) -> Result<()> {
    let binary = rounds.souk()?;
    let server = (!on_sqlite).then(servers::postgres).transpose()?;
    if let Some(server) = &server {
        Plans::prepare(server)?;
    }
    let prefixes: Vec<String> = (0..sizes.len()).map(|index| format!("size{index}")).collect();
    let mut filled = Vec::new();
    for (size, prefix) in sizes.iter().zip(&prefixes) {
        let place = server.as_ref().map_or(Place::Sqlite, |server| Place::Postgres(server, prefix));
        filled.push((size, Filled::new(&binary, place, *size, &[]).await.with_context(|| size.to_string())?));
        println!("filled: {} products, {} orders", size.products, size.orders);
    }
    let shops: Vec<_> = filled.iter().map(|(size, filled)| (*size, filled, reads(filled))).collect();

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        for kind in 0..shops.first().map_or(0, |(_, _, reads)| reads.len()) {
            for (size, filled, reads) in &shops {
                let (what, target) = &reads[kind];
                let name = name(what, size);
                let figures = filled.souk.turn(target, CONNECTIONS, rounds.turn()).await;
                report.add(&name, figures.with_context(|| name.clone())?);
            }
        }
        report.show_round();
    }
    if let Some(((least, _, reads), more)) = shops.split_first() {
        for (what, _) in reads {
            for (size, ..) in more {
                let (a, b) = (name(what, size), name(what, least));
                report.ratio(&format!("{a} / {least}, p50"), Goal::Open, (&a, |f| f.p50_ms), (&b, |f| f.p50_ms));
                let goal = if *what == "search" { Goal::Open } else { Goal::AtMost(1.2) };
                report.ratio(&format!("{a} / {least}, p99"), goal, (&a, |f| f.p99_ms), (&b, |f| f.p99_ms));
            }
        }
    }
    if let (Some((size, _, reads)), Some(server)) = (shops.last(), &server) {
        println!("\nPlans at {size}:");
        for (what, target) in reads {
            let plans = Plans::watch(server)?;
            load::once(target).await?;
            println!("\n-- {what}\n{}", plans.end()?.text());
        }
    }
    report.finish(rounds.json.as_deref())
}

fn name(what: &str, size: &Size) -> String {
    format!("{what}, {size}")
}

/// All reads of a shop.
fn reads(filled: &Filled<'_>) -> Vec<(&'static str, Target)> {
    let reads = catalog::reads(filled.products.clone());
    let products = reads.iter().map(|read| (read.what, read.over_rest(&filled.souk)));
    products.chain(filled.order_reads()).collect()
}
