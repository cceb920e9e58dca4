//! `souk prove`: prepares the souk to test, runs the test, and reports the checks together with those of `souk verify`.

mod databases;
mod own;

use std::path::Path;

use chrono::Utc;
use rand::RngExt;
use souk_common::config::Settings;
use souk_prove::{Did, Options, Place, Run, archive, prove};
use souk_store::verify::Check;

use self::own::Own;
use crate::{
    cli::{DataArgs, ProveArgs},
    settings::{self, Given},
    signals, staff, verify,
};

/// The souk to test, with its settings if they are known.
struct Known {
    place: Place,
    /// The settings for `souk verify`.
    settings: Option<Settings>,
    /// The run's own services.
    own: Option<Own>,
}

/// Carries out the run and prints its report. A broken promise is an error.
pub async fn run(args: &ProveArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let name = format!("{}-{:04x}", Utc::now().format("%Y%m%d-%H%M%S"), rand::rng().random::<u16>());
    let seed = args.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let signal = signals::listen()?.token;
    println!("Run {name} with seed {seed}: {} buyers, {} products", args.buyers, args.products);
    let Known { mut place, settings, own } = match &args.url {
        Some(server) => installation(server, args, file)?,
        None => own::start(args, &name).await?,
    };
    let proved = Box::pin(prove(&options(args), Run { name, seed }, &mut place, &signal)).await;
    let archived = match own {
        Some(_) => Ok(()),
        None => archive(&place.staff, &place.products).await,
    };
    let result = match proved {
        Ok((did, found)) => tell(args, settings.as_ref(), &did, found).await,
        Err(error) => Err(error),
    };
    if let Some(services) = place.services {
        services.stop().await?;
    }
    if let Some(own) = own {
        own.leave(result.is_ok()).await?;
    }
    result.and(archived)
}

fn options(args: &ProveArgs) -> Options {
    Options {
        buyers: args.buyers,
        products: args.products,
        stock: args.stock,
        duration: args.duration,
        orders: args.orders,
        kills: if args.no_kills { Some(0) } else { args.kills },
        payment_token: args.payment_token.clone(),
    }
}

/// Prints the report, including the checks of `souk verify`.
async fn tell(args: &ProveArgs, settings: Option<&Settings>, did: &Did, mut found: Vec<Check>) -> anyhow::Result<()> {
    println!("\nWhat it did\n{did}\nWhat it found");
    match settings {
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

/// A souk that is already running.
fn installation(server: &str, args: &ProveArgs, file: Option<&Path>) -> anyhow::Result<Known> {
    let data = DataArgs { data_dir: args.data_dir.clone(), database_url: args.database_url.clone() };
    let settings = settings::load(file, &Given::from_args(&data)?)?;
    let staff = staff::api(server, &settings::data_dir(&settings)?)?;
    let known = file.is_some() || data.data_dir.is_some() || data.database_url.is_some();
    let place = Place { server: server.to_owned(), staff, products: Vec::new(), services: None };
    Ok(Known { place, settings: known.then_some(settings), own: None })
}
