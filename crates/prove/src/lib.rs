//! What `souk prove` does: the promises put to the test on an installation, or on services of its own that it kills.
//!
//! Buyers order the same few products, in parallel and repeatedly, cancel and return, and every response is kept.
//! Then the run waits until everything is final, reads all data by the public API, and compares it with the
//! responses. If the databases are known, `souk verify` follows.
#![allow(clippy::print_stdout, reason = "a command of the command line speaks there")]

mod answers;
mod buyers;
mod check;
mod found;
mod plan;
mod report;
mod services;
mod shop;

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail};
use futures::future::join_all;
use indicatif::ProgressBar;
use souk_import::api::Api;
use souk_store::verify::Check;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{answers::Purchase, buyers::Market, report::seconds, services::Kills};
pub use self::{
    plan::SERVICES,
    report::Did,
    services::{Ready, Service, Services},
    shop::{Product, archive},
};

const DURATION: Duration = Duration::from_secs(30);
/// Without a word on kills: one in so many seconds, or so many in a number of orders.
const KILL_EVERY: u64 = 6;
const KILLS: u32 = 5;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Customers who buy at the same time.
    pub buyers: u16,
    /// Products they buy.
    pub products: u16,
    /// Pieces of each product at the start, and in each delivery.
    pub stock: u32,
    /// How long to buy. Without it: without end where `orders` says how many, else for 30 s.
    pub duration: Option<Duration>,
    /// How many orders to place.
    pub orders: Option<u64>,
    /// How often to kill services of the run's own. Without it: as often as fits the time.
    pub kills: Option<u32>,
    /// A payment token that the installation's provider approves.
    pub payment_token: Option<String>,
}

/// Where the run takes place.
pub struct Place {
    /// Base URL of the gateway.
    pub server: String,
    /// An administrator.
    pub staff: Api,
    /// The products that were made for the run.
    pub products: Vec<Product>,
    /// The run's own services.
    pub services: Option<Services>,
}

/// Which run it is, and where its random choices begin.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its name, in what it makes.
    pub name: String,
    /// The same seed makes the same choices.
    pub seed: u64,
}

/// Buys, kills and looks; answers what was done, and what was found. Ends sooner by `signal`.
///
/// # Errors
/// Where the run cannot be carried out. A promise that is broken is a [`Check`] that does not hold.
pub async fn prove(
    args: &Options,
    run: Run,
    place: &mut Place,
    signal: &CancellationToken,
) -> anyhow::Result<(Did, Vec<Check>)> {
    let Run { name: run, seed } = run;
    let Place { server, staff, products, services } = place;
    shop::stock_up(staff, &run, (args.products, args.stock.into()), products).await?;
    let names = products.iter().map(|product| product.name.clone()).collect();
    let market = Market::new((run, seed), names, staff, args.payment_token.clone(), args.orders, signal);
    let opening = async {
        let buyers = shop::customers(server, &market.run, args.buyers).await?;
        let first = first(&market, &buyers).await?;
        anyhow::Ok((buyers, first))
    };
    let opened = market.stop.run_until_cancelled(opening).await;
    let (buyers, first) = opened.context("stopped before the buyers began: nothing was put to the test")??;

    println!("The buyers order; Ctrl-C ends it sooner, and checks what they did");
    let mut traded = Box::pin(trade(args, &market, &buyers, products, services.as_mut())).await?;
    traded.purchases.insert(0, first);
    let since = traded.kills.last.unwrap_or(traded.stopped);
    let found = found::look(staff, &buyers, products, &traded.purchases, since).await?;

    let mut did = Did {
        seed,
        buyers: args.buyers,
        seconds: seconds(traded.took),
        deliveries: traded.deliveries,
        kills: traded.kills.by_service,
        repeated: buyers::repeated(buyers.iter().chain([&*staff])),
        longest_wait: seconds(market.longest_wait()),
        final_after: seconds(found.settled.after),
        ..Did::default()
    };
    did.count(&traded.purchases);
    let prices: HashMap<String, i64> = products.iter().map(|product| (product.name.clone(), product.price)).collect();
    let mut checks = check::checks(&traded.purchases, &found, &prices);
    if services.is_some() {
        let broken = traded.kills.fallen;
        checks.push(Check { name: "no service ended by itself", counted: 4, broken });
    }
    Ok((did, checks))
}

/// Places the first order, and stops where the payment provider is one that takes no simulated tokens.
async fn first(market: &Market<'_>, buyers: &[Api]) -> anyhow::Result<Purchase> {
    let purchase =
        market.next(buyers.first().context("there are no buyers")?).await.context("there is nothing to buy")?;
    let provider = purchase.order().and_then(|order| Some(order.payment.as_ref()?.provider.as_str()));
    if let (Some(provider), None) = (provider, &market.token)
        && provider != "simulated"
    {
        bail!("the payment provider there is `{provider}`: give a token that it approves with --payment-token");
    }
    Ok(purchase)
}

/// What came of the buying.
struct Traded {
    purchases: Vec<Purchase>,
    kills: Kills,
    deliveries: u64,
    took: Duration,
    stopped: Instant,
}

/// Buys, delivers and kills until the end: of the time, of the orders, or by a signal.
async fn trade(
    args: &Options,
    market: &Market<'_>,
    buyers: &[Api],
    products: &mut [Product],
    services: Option<&mut Services>,
) -> anyhow::Result<Traded> {
    let (started, stop) = (Instant::now(), &market.stop);
    let duration = args.duration.or(args.orders.is_none().then_some(DURATION));
    let progress = || {
        let time = duration.map_or(0.0, |duration| started.elapsed().as_secs_f64() / duration.as_secs_f64());
        args.orders.map_or(time, |orders| time.max(market.begun() as f64 / orders as f64))
    };
    let strikes = plan::strikes(market.seed, kills(args, duration));
    let bar = ProgressBar::new_spinner();
    let clock = async {
        while duration.is_none_or(|duration| started.elapsed() < duration) {
            bar.set_message(format!("{} orders, {:.0} s", market.begun(), started.elapsed().as_secs_f64()));
            if stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await.is_none() {
                break;
            }
        }
        stop.cancel();
        Instant::now()
    };
    let killing = async {
        let Some(services) = services else { return Ok(Kills::default()) };
        let kills = services.strike(&strikes, progress, stop).await;
        stop.cancel();
        kills
    };
    let delivering = async {
        let deliveries = shop::deliveries(market.staff, &market.run, products, args.stock.into(), stop).await;
        stop.cancel();
        deliveries
    };
    let buying = join_all(buyers.iter().map(|buyer| market.buy(buyer)));
    let (stopped, kills, deliveries, purchases) = tokio::join!(clock, killing, delivering, buying);
    bar.finish_and_clear();
    let purchases = purchases.into_iter().flatten().collect();
    Ok(Traded { purchases, kills: kills?, deliveries: deliveries?, took: stopped - started, stopped })
}

/// How often to kill.
fn kills(args: &Options, duration: Option<Duration>) -> u32 {
    let by_time = duration.map(|duration| u32::try_from(duration.as_secs() / KILL_EVERY).unwrap_or(u32::MAX).max(1));
    args.kills.or(by_time).unwrap_or(KILLS)
}
