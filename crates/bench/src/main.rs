//! Side-by-side benchmarks of souk. Contestants take turns in one run; the result is the ratio of their figures.
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
mod sqlite;
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
    /// Read a product: REST through the gateway, compared with direct gRPC and Envoy's transcoder.
    Gateway {
        #[command(flatten)]
        rounds: Rounds,
        /// Envoy's binary. Default: the one in PATH. `none` runs the case without Envoy.
        #[arg(long, default_value = "envoy")]
        envoy: String,
    },
    /// Place orders through the gateway with the whole saga, compared with the minimal cost of an order in PostgreSQL
    /// (pgbench).
    Orders {
        #[command(flatten)]
        rounds: Rounds,
        /// Connections to souk. pgbench uses `--connections`.
        #[arg(long, default_value_t = 64)]
        buyers: usize,
    },
    /// Place orders one at a time, compared with the sum of the commits that an order waits for (pgbench with one
    /// client).
    Latency {
        #[command(flatten)]
        rounds: Rounds,
    },
    /// Call Reserve of the inventory service directly, compared with the minimal cost of an order in PostgreSQL
    /// (pgbench).
    Reserve {
        #[command(flatten)]
        rounds: Rounds,
        /// Reservations in flight at a time. pgbench uses `--connections`.
        #[arg(long, default_value_t = 256)]
        callers: usize,
    },
    /// Read a product, a page and a search over REST, compared with direct gRPC. Also log in.
    Catalog {
        #[command(flatten)]
        rounds: Rounds,
    },
    /// Start `souk up` in a new folder: time to the first response, memory when idle and while orders are placed.
    Start {
        #[command(flatten)]
        rounds: Rounds,
        /// Connections that place orders.
        #[arg(long, default_value_t = 64)]
        buyers: usize,
    },
    /// Read products and orders in a nearly empty shop and in large ones, and show the query plans.
    Growth {
        #[command(flatten)]
        rounds: Rounds,
        /// Products and orders of a shop. May be given several times; the other shops are compared with the first one.
        /// The goal is defined for 0:0, 100000:1000000 and 1000000:10000000, which take about 15 GB and most of an
        /// hour.
        #[arg(long = "size", value_name = "PRODUCTS:ORDERS", default_values = ["0:0", "100000:100000"])]
        sizes: Vec<Size>,
        /// Use SQLite files instead of PostgreSQL. The plans are not shown then.
        #[arg(long)]
        sqlite: bool,
    },
    /// Send more orders than souk can place, up to ten times the peak rate, as an open loop.
    Overload {
        #[command(flatten)]
        rounds: Rounds,
        /// The maximum number of requests in flight in the open loop, each on its own connection.
        #[arg(long, default_value_t = 2000)]
        in_flight: usize,
    },
    /// Read and order from one address while another one attacks, compared with the same without an attack.
    Hostile {
        #[command(flatten)]
        rounds: Rounds,
    },
}

/// Number and length of turns.
#[derive(Debug, Args)]
struct Rounds {
    /// Turns of each contestant.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Duration of a turn in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// The souk binary. By default it is built.
    #[arg(long)]
    souk: Option<PathBuf>,
    /// Write the figures of every turn to this file.
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
        Case::Growth { rounds, sizes, sqlite } => growth::run(&rounds, &sizes, sqlite).await,
        Case::Overload { rounds, in_flight } => overload::run(&rounds, in_flight).await,
        Case::Hostile { rounds } => hostile::run(&rounds).await,
    }
}
