//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// souk: a commerce backend that starts with one command and grows to a cluster.
///
/// Without a command, `souk up` starts everything in this process: users, inventory, orders and the API gateway,
/// on SQLite files in the data folder, with nothing to install. The same program runs each service alone for a
/// cluster, migrates databases, imports real data and proves that the stored data is right.
#[derive(Parser, Debug)]
#[command(name = "souk", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings file (TOML). See `souk default-config` for all settings and what they mean.
    #[arg(long, value_name = "FILE", env = "SOUK_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub up: UpArgs,
}

const AFTER_HELP: &str = "\
SETTINGS
  Every setting has a default. A settings file overrides it, and a variable SOUK_<SECTION>__<KEY> overrides the file:
      SOUK_ORDER__DATABASE__URL=postgres://souk@db/souk_order souk order
  `souk default-config` prints all of them with their meaning, `souk check-config` what is in force.

EXAMPLES
  souk                                     everything, on http://127.0.0.1:8080, data in ./souk-data
  SOUK_ORDER__PAYMENT__PROVIDER=simulated souk up --listen 0.0.0.0:80 --data-dir /var/lib/souk
                                           the same for other machines; payments must be chosen there
  souk up --database-url postgres://souk:secret@db:5432
                                           everything in one process, on PostgreSQL databases souk_user,
                                           souk_inventory and souk_order
  souk gateway --descriptors api.binpb --backend my.pkg=http://127.0.0.1:9000 --public
                                           services of your own as REST, gRPC-Web, Connect, gRPC and OpenAPI
  souk demo                                a small shop to look at, in a running souk
  souk import online-retail sales.csv      a real catalogue and real orders into a running souk
  souk verify                              check the promises on the stored data
  souk prove                               buyers, duplicates, cancels and kills on services of its own, then verify

EXIT STATUS
  0  done, or stopped by SIGINT or SIGTERM
  1  failed; the reason is on standard error
  2  the command line or a setting is wrong";

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run everything in one process (the default).
    Up(UpArgs),
    /// Run the user service alone, or create an administrator.
    User(UserArgs),
    /// Run the inventory service alone.
    Inventory(ServiceArgs),
    /// Run the order service alone.
    Order(ServiceArgs),
    /// Run the API gateway alone, for souk's services or your own (docs/gateway.md).
    Gateway(GatewayArgs),
    /// Migrate the databases to this version's schema and exit. Services migrate by themselves when they start.
    Migrate(MigrateArgs),
    /// Read and check all settings, and print their values with secrets hidden.
    CheckConfig(DataArgs),
    /// Print every setting with its default and its meaning: a settings file to start from.
    DefaultConfig,
    /// Import data from another system into a running souk through its public API.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Fill a running souk with a small shop to look at: products, stock, customers, and orders in several states,
    /// through the public API. Run again, it adds what is missing and changes nothing else. Needs simulated payments.
    Demo(DemoArgs),
    /// Check the promises on live databases: stock equals its ledger, every order is final or in progress, every
    /// confirmed order is paid once. Exit status 1 if one is broken, with the rows that break it.
    Verify(DataArgs),
    /// Test the promises: buyers order few products, in parallel and repeatedly, cancel and return, while services are
    /// killed; then every response is compared with the stored data. Exit status 1 if a promise is broken, with the
    /// orders and products that break it.
    Prove(ProveArgs),
    /// Check whether a running gateway or service is ready. Exit status 0 if it is. For health checks of containers.
    Healthcheck(HealthcheckArgs),
    /// Make the certificates that services show each other (`[server.tls]`, `[client.tls]`): an authority in
    /// `DIR/authority`, made once, and in `DIR/NAME` what the service NAME needs, recreated each time: `ca.pem`,
    /// `certificate.pem` and `key.pem`. A certificate is valid for a year.
    Certificates(CertificatesArgs),
    /// Print the completions of this command line for a shell: `source <(souk completions bash)`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages, one for each command: `souk man DIR && man -l DIR/souk.1`.
    Man {
        /// Folder to write them to.
        dir: PathBuf,
    },
}

/// Options for the place of the data.
#[derive(Args, Debug, Clone, Default)]
pub struct DataArgs {
    /// Folder of the databases (SQLite), keys and credentials. Default: `data_dir` of the settings, `souk-data`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL server with the databases `souk_user`, `souk_inventory` and `souk_order`, instead of SQLite files.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

/// Options of `souk up`.
#[derive(Args, Debug, Clone, Default)]
pub struct UpArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Address of the API gateway. Default: `gateway.listen` of the settings, 127.0.0.1:8080.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
}

/// Options of a service.
#[derive(Args, Debug, Clone, Default)]
pub struct ServiceArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Address to serve on. Default: `listen` in the service's section of the settings.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
}

/// Options of the gateway.
#[derive(Args, Debug, Clone, Default)]
pub struct GatewayArgs {
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Serve services of your own in place of souk's: a file with their descriptors, from `protoc --include_imports
    /// --descriptor_set_out=FILE` or `buf build -o FILE` (gateway.contract.descriptors).
    #[arg(long, value_name = "FILE")]
    pub descriptors: Option<PathBuf>,
    /// Serve services of your own, and ask each --backend for them by gRPC server reflection
    /// (gateway.contract.reflection).
    #[arg(long, conflicts_with = "descriptors")]
    pub reflect: bool,
    /// The address of a service or of all services of a package: `my.pkg=http://127.0.0.1:9000`. May be given for each,
    /// and more than once for one with several addresses (gateway.backends).
    #[arg(long, value_name = "NAME=URL", value_parser = backend)]
    pub backend: Vec<(String, String)>,
    /// Let anyone call methods of your own services that have no other rule (gateway.contract.access).
    #[arg(long)]
    pub public: bool,
}

fn backend(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() => Ok((name.to_owned(), url.to_owned())),
        _ => Err("must name a service or package, and where it is: my.pkg=http://127.0.0.1:9000".to_owned()),
    }
}

/// Options and subcommands of `souk user`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UserArgs {
    #[command(subcommand)]
    pub command: Option<UserCommand>,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// Manage users directly in their database.
#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// Create an administrator. The password is read from SOUK_ADMIN_PASSWORD, or generated and printed once.
    CreateAdmin {
        /// Address to log in with.
        #[arg(long)]
        email: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Sign new tokens with a new key. The old key stays published until the last token that it signed has expired.
    RotateKey {
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Options of `souk migrate`.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// The services to migrate. Default: all three.
    #[arg(value_parser = ["user", "inventory", "order"])]
    pub services: Vec<String>,
    #[command(flatten)]
    pub data: DataArgs,
}

/// The formats that can be imported.
#[derive(Subcommand, Debug)]
pub enum ImportCommand {
    /// Read the export of the "Online Retail" data set (UCI) or one like it: a CSV file with the columns
    /// InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country.
    /// Makes products, opening stock, customers and orders. May be stopped and run again at any time.
    OnlineRetail(OnlineRetailArgs),
}

/// Options of `souk import online-retail`.
#[derive(Args, Debug, Clone)]
pub struct OnlineRetailArgs {
    /// The export.
    pub file: PathBuf,
    /// Address of the gateway. Default: that of the souk running on the data folder, or http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Folder with the credentials that `souk up` left there. SOUK_TOKEN overrides them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write each line that could not be imported here, with its number and the reason (CSV).
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The maximum number of requests in flight.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
}

/// Options of `souk demo`.
#[derive(Args, Debug, Clone)]
pub struct DemoArgs {
    /// Address of the gateway. Default: that of the souk running on the data folder, or http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Folder with the credentials that `souk up` left there. SOUK_TOKEN overrides them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Options of `souk prove`.
#[derive(Args, Debug, Clone)]
pub struct ProveArgs {
    /// Gateway of a running souk, as http://host:port. Products and customers are made there for the run, with
    /// SOUK_TOKEN or the credentials in the data folder; the products are archived at the end. Without it: services
    /// of the run's own, a process each, on free ports, with default settings whatever SOUK_* and --config say.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// With --url: the data folder of that souk, for credentials and `souk verify`. Else an empty folder for the
    /// run's own services, which is kept. Default: a temporary one, kept only if a promise is broken.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// With --url: the PostgreSQL server of that souk, for `souk verify`. Else one on which the run makes databases
    /// souk_prove_… of its own, dropped at the end if all promises hold. Default: SQLite files.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Customers who buy at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub buyers: u16,
    /// Products they buy; the fewer, the harder.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub products: u16,
    /// Pieces of each product at the start, and in each delivery once it is nearly sold out.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub stock: u32,
    /// How long to buy, for example 90s or 10m. Default: 30s, or no limit if --orders is given.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// How many orders to place.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub orders: Option<u64>,
    /// How often to kill the run's own services: at random times, and once at the very end. Default: once per 6 s, or
    /// 5 times with --orders.
    #[arg(long, value_name = "N", conflicts_with = "url")]
    pub kills: Option<u32>,
    /// Kill nothing.
    #[arg(long, conflicts_with = "kills")]
    pub no_kills: bool,
    /// Seed of the random choices: the same seed makes the same baskets, payments, cancellations and kills.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A payment token that the installation's provider approves. Default: those of the simulated provider, which
    /// approve, decline, are slow, fail once or lose a response.
    #[arg(long, value_name = "TOKEN")]
    pub payment_token: Option<String>,
    /// Write the report to this file (JSON).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `souk healthcheck`.
#[derive(Args, Debug)]
pub struct HealthcheckArgs {
    /// `http://host:port` of the gateway, or of any process's metrics (asks /readyz), `grpc://host:port` of a service
    /// (asks its gRPC health), or `grpcs://host:port` of one with TLS, which is asked with `[client.tls]` of the
    /// settings.
    #[arg(default_value = "http://127.0.0.1:8080")]
    pub address: String,
}

/// Options of `souk certificates`.
#[derive(Args, Debug)]
pub struct CertificatesArgs {
    /// Folder to make them in.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Names of services: user, inventory, order, gateway. Each must be the name in the service's tokens and its host
    /// name.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_is_the_default_command_and_accepts_its_options() {
        let cli = Cli::try_parse_from(["souk", "--listen", "127.0.0.1:1", "--data-dir", "x"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.up.listen.unwrap().port(), 1);
        let cli = Cli::try_parse_from(["souk", "up", "--listen", "127.0.0.1:2"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Up(up)) if up.listen.unwrap().port() == 2));
        let cli = Cli::try_parse_from(["souk", "user", "create-admin", "--email", "a@b.c"]).unwrap();
        assert!(matches!(cli.command, Some(Command::User(UserArgs { command: Some(_), .. }))));
        let gateway = ["souk", "gateway", "--descriptors", "a", "--backend", "a.b=http://c", "--backend", "d=http://e"];
        let cli = Cli::try_parse_from(gateway).unwrap();
        assert!(matches!(cli.command, Some(Command::Gateway(gateway)) if gateway.backend[1].0 == "d"));
        for wrong in ["a", "=http://a", "a="] {
            assert!(Cli::try_parse_from(["souk", "gateway", "--backend", wrong]).is_err(), "{wrong}");
        }
    }
}
