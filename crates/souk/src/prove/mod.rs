//! `souk prove`: tests the promises on an installation, or on services of its own that it kills.
//!
//! Buyers order the same few products, in parallel and repeatedly, cancel and return, and every response is kept.
//! Then the run waits until everything is final, reads all data by the public API, and compares it with the
//! responses. If the databases are known, `souk verify` follows.

mod answers;
mod buyers;
mod check;
mod databases;
mod found;
mod plan;
mod report;
mod services;
mod shop;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::Utc;
use futures::future::join_all;
use indicatif::ProgressBar;
use rand::RngExt;
use souk_common::{config::Settings, verify::Check};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    answers::Purchase,
    buyers::Market,
    databases::Databases,
    report::{Did, seconds},
    services::{Kills, Services},
    shop::Product,
};
use crate::{
    api::{Api, Identity},
    cli::{DataArgs, ProveArgs},
    data_dir::DataDir,
    settings::{self, Given},
    signals, verify,
};

const DURATION: Duration = Duration::from_secs(30);
/// Without a word on kills: one in so many seconds, or so many in a number of orders.
const KILL_EVERY: u64 = 6;
const KILLS: u32 = 5;

/// Where the run takes place.
struct Place {
    server: String,
    staff: Api,
    products: Vec<Product>,
    /// For `souk verify`.
    settings: Option<Settings>,
    /// Its own services.
    own: Option<Own>,
}

struct Own {
    services: Services,
    databases: Option<Databases>,
    folder: PathBuf,
    /// Whether the folder goes where all is well.
    temporary: bool,
}

/// Runs it and prints what it did and found; an error where a promise is broken.
pub async fn run(args: &ProveArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let run = format!("{}-{:04x}", Utc::now().format("%Y%m%d-%H%M%S"), rand::rng().random::<u16>());
    let seed = args.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let signal = signals::listen()?.token;
    println!("Run {run} with seed {seed}: {} buyers, {} products", args.buyers, args.products);
    let mut place = match &args.url {
        Some(server) => installation(server, args, file)?,
        None => own(args, &run).await?,
    };
    let proved = Box::pin(prove(args, (run, seed), &mut place, &signal)).await;
    let archived = match place.own {
        Some(_) => Ok(()),
        None => shop::archive(&place.staff, &place.products).await,
    };
    let result = match proved {
        Ok((did, found)) => tell(args, &place, &did, found).await,
        Err(error) => Err(error),
    };
    if let Some(own) = place.own {
        own.leave(result.is_ok()).await?;
    }
    result.and(archived)
}

/// Prints what was done and found, `souk verify` included.
async fn tell(args: &ProveArgs, place: &Place, did: &Did, mut found: Vec<Check>) -> anyhow::Result<()> {
    println!("\nWhat it did\n{did}\nWhat it found");
    match &place.settings {
        Some(settings) => {
            let (hold, broken): (Vec<_>, Vec<_>) = verify::checks(settings).await?.into_iter().partition(Check::holds);
            let counted = hold.iter().map(|check| check.counted).sum();
            found.push(Check { name: "what `souk verify` finds to hold", counted, broken: Vec::new() });
            found.extend(broken);
        }
        None => {
            println!("      `souk verify` was not run: --config, --data-dir or --database-url say where its data is")
        }
    }
    if let Some(file) = &args.json {
        did.write(&found, file)?;
    }
    verify::report(&found)
}

/// A souk that runs already.
fn installation(server: &str, args: &ProveArgs, file: Option<&Path>) -> anyhow::Result<Place> {
    let data = DataArgs { data_dir: args.data_dir.clone(), database_url: args.database_url.clone() };
    let settings = settings::load(file, &Given::from_args(&data)?)?;
    let staff = Api::as_staff(server, &settings::data_dir(&settings)?)?;
    let known = file.is_some() || data.data_dir.is_some() || data.database_url.is_some();
    let settings = known.then_some(settings);
    Ok(Place { server: server.to_owned(), staff, products: Vec::new(), settings, own: None })
}

/// Services of the run's own.
async fn own(args: &ProveArgs, run: &str) -> anyhow::Result<Place> {
    let temporary = std::env::temp_dir().join(format!("souk-prove-{run}"));
    let folder = args.data_dir.clone().unwrap_or(temporary);
    if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: the run's own services need a --data-dir of their own", folder.display());
    }
    let data_dir = DataDir::open(&folder)?;
    println!("Own services, with data and logs in {}", folder.display());
    let databases = match &args.database_url {
        Some(server) => Some(Databases::create(server, run).await?),
        None => None,
    };
    let services = Services::start(&data_dir, databases.as_ref()).await;
    let services = services.with_context(|| left(&folder, databases.as_ref()))?;
    let (server, settings) = (services.gateway(), services.settings.clone());
    let admin = data_dir.credentials().context("the administrator's credentials are gone")?;
    let staff = Api::new(&server, Identity::Credentials(admin))?;
    let own = Own { services, databases, folder, temporary: args.data_dir.is_none() };
    Ok(Place { server, staff, products: Vec::new(), settings: Some(settings), own: Some(own) })
}

/// Where to look for what went wrong.
fn left(folder: &Path, databases: Option<&Databases>) -> String {
    let databases = databases.map(|databases| format!(", databases {}", databases.names()));
    format!("Left to look at: {}{}", folder.display(), databases.unwrap_or_default())
}

impl Own {
    /// Stops everything, and removes what was made where all is well.
    async fn leave(self, well: bool) -> anyhow::Result<()> {
        self.services.stop().await?;
        if !well {
            println!("\n{}", left(&self.folder, self.databases.as_ref()));
            return Ok(());
        }
        if let Some(databases) = self.databases {
            databases.drop().await?;
        }
        if self.temporary {
            let folder = &self.folder;
            std::fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
        }
        Ok(())
    }
}

async fn prove(
    args: &ProveArgs,
    (run, seed): (String, u64),
    place: &mut Place,
    signal: &CancellationToken,
) -> anyhow::Result<(Did, Vec<Check>)> {
    let Place { server, staff, products, own, .. } = place;
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
    let mut traded = Box::pin(trade(args, &market, &buyers, products, own.as_mut())).await?;
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
    if own.is_some() {
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
    args: &ProveArgs,
    market: &Market<'_>,
    buyers: &[Api],
    products: &mut [Product],
    own: Option<&mut Own>,
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
        let Some(own) = own else { return Ok(Kills::default()) };
        let kills = own.services.strike(&strikes, progress, stop).await;
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
fn kills(args: &ProveArgs, duration: Option<Duration>) -> u32 {
    let by_time = duration.map(|duration| u32::try_from(duration.as_secs() / KILL_EVERY).unwrap_or(u32::MAX).max(1));
    if args.no_kills { 0 } else { args.kills.or(by_time).unwrap_or(KILLS) }
}
