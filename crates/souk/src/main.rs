//! souk: a commerce backend that starts with one command and grows to a cluster.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks there")]

mod certificates;
mod cli;
mod data_dir;
mod demo;
mod healthcheck;
mod import;
mod manual;
mod parts;
mod prove;
mod settings;
mod signals;
mod single;
mod staff;
mod up;
mod verify;

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use cli::{Cli, Command, ImportCommand, MigrateArgs, UserCommand};
use data_dir::DataDir;
use settings::Given;
use single::Which;

/// The allocator for all memory of the process, including that of SQLite.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The most threads for work that blocks: SQLite's statements, password hashes, files. Each one's stack is memory. SQLite
/// has at most one writer and four readers at a time for each of three databases.
const MAX_BLOCKING_THREADS: usize = 16;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("souk: {error:#}");
    let setting = error.downcast_ref::<souk_common::config::ConfigError>().is_some();
    ExitCode::from(if setting { 2 } else { 1 })
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let file = cli.config.as_deref();
    let Some(command) = cli.command else { return up::run(&cli.up, file).await };
    match command {
        Command::Up(args) => up::run(&args, file).await,
        Command::User(args) => match args.command {
            None => single::run(Which::User, &args.service, file).await,
            Some(UserCommand::CreateAdmin { email, data }) => {
                create_admin(&email, &Given::from_args(&data)?, file).await
            }
            Some(UserCommand::RotateKey { data }) => {
                let settings = settings::load(file, &Given::from_args(&data)?)?;
                let kid = souk_user::rotate_key(&souk_user::Config::from_settings(&settings)?).await?;
                println!("new tokens are signed with key {kid}");
                Ok(())
            }
        },
        Command::Inventory(args) => single::run(Which::Inventory, &args, file).await,
        Command::Order(args) => single::run(Which::Order, &args, file).await,
        Command::Gateway(args) => single::run_gateway(&args, file).await,
        Command::Migrate(args) => migrate(&args, file).await,
        Command::CheckConfig(data) => {
            let settings = settings::load(file, &Given::from_args(&data)?)?;
            souk_user::Config::from_settings(&settings)?;
            souk_inventory::Config::from_settings(&settings)?;
            souk_order::Config::from_settings(&settings)?;
            souk_gateway::Config::from_settings(&settings)?;
            settings.section::<souk_common::telemetry::Config>("telemetry")?;
            print!("{}", settings.effective());
            Ok(())
        }
        Command::DefaultConfig => {
            print!("{}", settings::loader().default_text());
            Ok(())
        }
        Command::Import(ImportCommand::OnlineRetail(args)) => {
            let data_dir = data_dir(args.data_dir.as_deref(), file)?;
            import::online_retail(args, &data_dir).await
        }
        Command::Demo(args) => demo::run(&args, &data_dir(args.data_dir.as_deref(), file)?).await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(&dir),
        Command::Verify(data) => verify::run(&settings::load(file, &Given::from_args(&data)?)?).await,
        Command::Prove(args) => Box::pin(prove::run(&args, file)).await,
        Command::Healthcheck(args) => healthcheck::run(&args.address, file).await,
        Command::Certificates(args) => certificates::run(&args),
    }
}

/// The data folder of the command line, or else that of the settings.
fn data_dir(given: Option<&Path>, file: Option<&Path>) -> anyhow::Result<DataDir> {
    match given {
        Some(folder) => Ok(DataDir::at(folder)),
        None => settings::data_dir(&settings::load(file, &Given::default())?),
    }
}

async fn create_admin(email: &str, given: &Given, file: Option<&Path>) -> anyhow::Result<()> {
    let settings = settings::load(file, given)?;
    DataDir::open(settings::data_dir(&settings)?.path())?;
    let password = std::env::var("SOUK_ADMIN_PASSWORD").ok().filter(|password| !password.is_empty());
    let created = souk_user::create_admin(&souk_user::Config::from_settings(&settings)?, email, password)
        .await
        .with_context(|| format!("{email} cannot be made an administrator"))?;
    println!("administrator {} ({})", created.user, email);
    if let Some(password) = created.password {
        println!("password {password} (shown this once)");
    }
    Ok(())
}

async fn migrate(args: &MigrateArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let settings = settings::load(file, &Given::from_args(&args.data)?)?;
    DataDir::open(settings::data_dir(&settings)?.path())?;
    let mut stores = settings::STORES.to_vec();
    stores.retain(|store| args.services.is_empty() || args.services.iter().any(|service| service == store));
    let _lock = settings::hold_data_dir(&settings, &stores)?;
    for store in stores {
        match store {
            "user" => souk_user::migrate(&souk_user::Config::from_settings(&settings)?).await?,
            "inventory" => souk_inventory::migrate(&souk_inventory::Config::from_settings(&settings)?).await?,
            _ => souk_order::migrate(&souk_order::Config::from_settings(&settings)?).await?,
        }
        println!("{store}: up to date");
    }
    Ok(())
}
