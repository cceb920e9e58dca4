//! `souk prove`: tests the promises on a running installation, or on its own services, which it kills.
//!
//! Buyers order the same few products in parallel, repeat requests, cancel and return. The run stores every response.
//! Then it waits until all orders are final, reads all data through the public API, and compares it with the responses.
//! If the databases are known, `souk verify` follows.
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
/// The default number of kills: one per this many seconds, or `KILLS` if only a number of orders is given.
const KILL_EVERY: u64 = 6;
const KILLS: u32 = 5;

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of customers who buy at the same time.
    pub buyers: u16,
    /// The number of products.
    pub products: u16,
    /// Pieces of each product at the start, and in each delivery.
    pub stock: u32,
    /// How long to buy. Default: no limit if `orders` is given, otherwise 30 s.
    pub duration: Option<Duration>,
    /// The number of orders to place.
    pub orders: Option<u64>,
    /// How often to kill the run's own services. The default depends on the duration.
    pub kills: Option<u32>,
    /// A payment token that the installation's provider approves.
    pub payment_token: Option<String>,
}

/// The souk that is tested.
pub struct Place {
    /// The base URL of the gateway.
    pub server: String,
    /// The API as an administrator.
    pub staff: Api,
    /// The products that were made for the run.
    pub products: Vec<Product>,
    /// The run's own services; `None` for a running installation.
    pub services: Option<Services>,
}

/// The name of the run and the seed of its random choices.
#[derive(Debug, Clone)]
pub struct Run {
    /// The name of the run, which is part of the names of all that it makes.
    pub name: String,
    /// The seed of the random choices: the same seed makes the same choices.
    pub seed: u64,
}

/// Carries out the run: places orders, kills services, and checks the data. Returns what was done and the checks.
/// `signal` ends the run early.
///
/// # Errors
/// If the run cannot be carried out. A broken promise is not an error, but a [`Check`] that fails.
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

/// Places the first order, and fails if the payment provider does not accept the simulated tokens.
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

/// The purchases and kills of the run.
struct Traded {
    purchases: Vec<Purchase>,
    kills: Kills,
    deliveries: u64,
    took: Duration,
    stopped: Instant,
}

/// Buys, restocks and kills until the time is over, all orders are placed, or a signal comes.
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

/// The number of kills.
fn kills(args: &Options, duration: Option<Duration>) -> u32 {
    let by_time = duration.map(|duration| u32::try_from(duration.as_secs() / KILL_EVERY).unwrap_or(u32::MAX).max(1));
    args.kills.or(by_time).unwrap_or(KILLS)
}
