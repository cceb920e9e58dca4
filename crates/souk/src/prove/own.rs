//! The run's own services: their settings, their administrator, and their removal.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::PathBuf,
};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use rand::RngExt;
use souk_import::api::{Api, Credentials, Identity};
use souk_prove::{Place, SERVICES, Service, Services};

use super::{Known, databases::Databases};
use crate::{
    cli::ProveArgs,
    data_dir::DataDir,
    healthcheck,
    settings::{self, Given, STORES},
    up::ADMIN,
};

/// Ports outside the ephemeral range: the system assigns none of them, so the port of a killed service stays free.
const PORTS: Range<u16> = 10_000..30_000;

/// The folder and databases that were made for the services.
pub struct Own {
    databases: Option<Databases>,
    folder: PathBuf,
    /// True if the folder is removed after a successful run.
    temporary: bool,
}

/// Starts the services on an empty data folder, in which the administrator's credentials are stored as by `souk up`.
pub async fn start(args: &ProveArgs, run: &str) -> anyhow::Result<Known> {
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
    let own = Own { databases, folder, temporary: args.data_dir.is_none() };
    own.services(&data_dir).await.with_context(|| own.left()).map(|known| Known { own: Some(own), ..known })
}

impl Own {
    async fn services(&self, data_dir: &DataDir) -> anyhow::Result<Known> {
        let (given, services) = configure(data_dir, self.databases.as_ref())?;
        let settings = settings::alone(&given)?;
        // Created before several services need it.
        data_dir.internal_secret()?;
        let password = souk_user::ensure_admin(&souk_user::Config::from_settings(&settings)?, ADMIN).await?;
        let password = password.context("the databases are not empty: there is an administrator already")?;
        let admin = Credentials { email: ADMIN.to_owned(), password };
        data_dir.keep_credentials(&admin)?;
        let variables = given.variables().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let services = Services::start(&self.folder, variables, services, ready).await?;
        let server = services.gateway();
        let staff = Api::new(&server, Identity::Credentials(admin))?;
        let place = Place { server, staff, products: Vec::new(), services: Some(services) };
        Ok(Known { place, settings: Some(settings), own: None })
    }

    /// The places with logs and data, for people who look for a fault.
    fn left(&self) -> String {
        let databases = self.databases.as_ref().map(|databases| format!(", databases {}", databases.names()));
        format!("Left to look at: {}{}", self.folder.display(), databases.unwrap_or_default())
    }

    /// Removes the folder and databases if the run was successful.
    pub async fn leave(self, well: bool) -> anyhow::Result<()> {
        if !well {
            println!("\n{}", self.left());
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

/// Checks if the service at an address is ready.
fn ready(address: String) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move { healthcheck::run(&address, None).await })
}

/// The settings for all four services, on free ports.
fn configure(data_dir: &DataDir, databases: Option<&Databases>) -> anyhow::Result<(Given, Vec<Service>)> {
    let ports = std::iter::repeat_with(|| rand::rng().random_range(PORTS)).take(PORTS.len());
    // All ports stay bound until all are known, so that none is assigned twice.
    let free = ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let listeners: Vec<_> = free.take(SERVICES.len()).collect();
    if listeners.len() < SERVICES.len() {
        bail!("there are no free ports from {} to {}", PORTS.start, PORTS.end);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let mut given = Given::default();
    let defaults = settings::alone(&given)?;
    given.set("data_dir", data_dir.path().display());
    given.set("telemetry.metrics_listen", "");
    given.set("gateway.rate_limits.enabled", false);
    given.set("gateway.access_log", false);
    let services: Vec<_> =
        SERVICES.into_iter().zip(addresses).map(|(name, address)| Service { name, address }).collect();
    for Service { name, address } in &services {
        given.set(&format!("{name}.listen"), address);
        if STORES.contains(name) {
            given.set_address(&defaults, name, &format!("http://{address}"));
        }
    }
    for service in STORES {
        if let Some(databases) = databases {
            given.set(&format!("{service}.database.url"), databases.url(service)?);
        }
    }
    Ok((given, services))
}
