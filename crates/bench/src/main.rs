//! Side-by-side benchmarks of souk. Contestants take turns in one run; what counts is the ratio.
#![allow(clippy::print_stdout, reason = "a program that prints its findings")]

mod buyers;
mod catalog;
mod filled;
mod floor;
mod gateway;
mod growth;
mod hostile;
mod latency;
mod load;
mod orders;
mod overload;
mod plans;
mod process;
mod report;
mod reserve;
mod server_log;
mod shop;
mod souk;
mod start;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use filled::Size;

/// Benchmarks of souk, side by side in one run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, Subcommand)]
enum Case {
    /// A product read through the gateway: REST beside the direct gRPC call and Envoy's transcoder.
    Gateway {
        #[command(flatten)]
        rounds: Rounds,
        /// Envoy's binary; found in PATH where it is not given. `none` leaves Envoy out.
        #[arg(long, default_value = "envoy")]
        envoy: String,
    },
    /// Orders placed through the gateway, the whole saga, beside the least that an order costs PostgreSQL (pgbench).
    Orders {
        #[command(flatten)]
        rounds: Rounds,
        /// Connections to souk; pgbench has `--connections`.
        #[arg(long, default_value_t = 64)]
        buyers: usize,
    },
    /// A lone order beside the sum of the commits that it waits for (pgbench with one client).
    Latency {
        #[command(flatten)]
        rounds: Rounds,
    },
    /// Inventory's Reserve alone, at the service itself, beside the least that an order costs PostgreSQL (pgbench).
    Reserve {
        #[command(flatten)]
        rounds: Rounds,
        /// Orders that are reserved for at a time; pgbench has `--connections`.
        #[arg(long, default_value_t = 256)]
        callers: usize,
    },
    /// A product, a page and a search over REST, beside the direct gRPC calls; and log-in.
    Catalog {
        #[command(flatten)]
        rounds: Rounds,
    },
    /// `souk up` in a fresh folder: time to the first answer, memory when idle and under orders.
    Start {
        #[command(flatten)]
        rounds: Rounds,
        /// Connections that place orders.
        #[arg(long, default_value_t = 64)]
        buyers: usize,
    },
    /// Reads of products and orders in a shop that is nearly empty and in ones that hold many, and their plans.
    Growth {
        #[command(flatten)]
        rounds: Rounds,
        /// Products and orders of a shop, the first one's being what the others are compared with; several times. The
        /// goal's are 0:0, 100000:1000000 and 1000000:10000000, which take some 15 GB and the better part of an hour.
        #[arg(long = "size", value_name = "PRODUCTS:ORDERS", default_values = ["0:0", "100000:100000"])]
        sizes: Vec<Size>,
    },
    /// More orders than can be placed, up to ten times the peak, as an open loop, and what is refused.
    Overload {
        #[command(flatten)]
        rounds: Rounds,
        /// Requests under way at a time in the open loop, each on a connection of its own.
        #[arg(long, default_value_t = 2000)]
        in_flight: usize,
    },
    /// Reads and orders of one address while another one attacks, beside the same without.
    Hostile {
        #[command(flatten)]
        rounds: Rounds,
    },
}

/// How long and how often.
#[derive(Debug, Args)]
struct Rounds {
    /// Times that each contestant has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that a turn is measured for.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// The souk binary; built where it is not given.
    #[arg(long)]
    souk: Option<PathBuf>,
    /// Writes every turn's figures there.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Rounds {
    fn turn(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The souk binary beside this one, built with the same profile.
    fn souk(&self) -> Result<PathBuf> {
        if let Some(path) = &self.souk {
            return Ok(path.clone());
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "--locked", "-p", "souk"]);
        if !cfg!(debug_assertions) {
            build.args(["--release", "--features", "jemalloc"]);
        }
        let status = build.status().context("cannot run cargo to build souk; give its binary with --souk")?;
        anyhow::ensure!(status.success(), "souk could not be built");
        Ok(souk_testkit::process::souk_binary())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().case {
        Case::Gateway { rounds, envoy } => gateway::run(&rounds, &envoy).await,
        Case::Orders { rounds, buyers } => orders::run(&rounds, buyers).await,
        Case::Latency { rounds } => latency::run(&rounds).await,
        Case::Reserve { rounds, callers } => reserve::run(&rounds, callers).await,
        Case::Catalog { rounds } => catalog::run(&rounds).await,
        Case::Start { rounds, buyers } => start::run(&rounds, buyers).await,
        Case::Growth { rounds, sizes } => growth::run(&rounds, &sizes).await,
        Case::Overload { rounds, in_flight } => overload::run(&rounds, in_flight).await,
        Case::Hostile { rounds } => hostile::run(&rounds).await,
    }
}
