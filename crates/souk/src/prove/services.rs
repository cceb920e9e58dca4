//! The run's own services: one process each, killed without warning and restarted.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use rand::RngExt;
use souk_common::config::Settings;
use tokio::{
    process::{Child, Command},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{databases::Databases, plan::Strike};
use crate::{
    data_dir::{Credentials, DataDir},
    healthcheck,
    settings::{self, Given},
    single::Which,
    up::ADMIN,
};

/// How long a service may take to be ready.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Ports that systems do not assign by themselves, so that the port of a killed service stays free.
const PORTS: Range<u16> = 10_000..30_000;
const ALL: [Which; 4] = [Which::User, Which::Inventory, Which::Order, Which::Gateway];

/// All four, running.
pub struct Services {
    /// What they run with, for `souk verify`.
    pub settings: Settings,
    given: Given,
    folder: PathBuf,
    running: Vec<Service>,
}

struct Service {
    which: Which,
    address: SocketAddr,
    process: Child,
}

/// The services that were killed, and those that ended by themselves.
#[derive(Default)]
pub struct Kills {
    /// How often each service was.
    pub by_service: BTreeMap<&'static str, u64>,
    /// When the last one was.
    pub last: Option<Instant>,
    /// Services that ended without being killed.
    pub fallen: Vec<String>,
}

impl Services {
    /// Starts them on an empty data folder, which gets the administrator's credentials as `souk up` leaves them.
    pub async fn start(data_dir: &DataDir, databases: Option<&Databases>) -> anyhow::Result<Self> {
        let (given, addresses) = configure(data_dir, databases)?;
        let settings = settings::alone(&given)?;
        // Created before several services need it.
        data_dir.internal_secret()?;
        let password = souk_user::ensure_admin(&souk_user::Config::from_settings(&settings)?, ADMIN).await?;
        let password = password.context("the databases are not empty: there is an administrator already")?;
        data_dir.keep_credentials(&Credentials { email: ADMIN.to_owned(), password })?;

        let mut services = Self { settings, given, folder: data_dir.path().to_owned(), running: Vec::new() };
        for (which, address) in ALL.into_iter().zip(addresses) {
            let process = services.spawn(which)?;
            services.running.push(Service { which, address, process });
        }
        for service in &mut services.running {
            service.ready(&services.folder).await?;
        }
        Ok(services)
    }

    /// Where the gateway is.
    pub fn gateway(&self) -> String {
        let gateway = self.running.iter().find(|service| service.which == Which::Gateway);
        gateway.map_or_else(String::new, |gateway| format!("http://{}", gateway.address))
    }

    /// Ends all of them, and waits until they are gone.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for service in &mut self.running {
            // One that has ended already cannot be killed.
            let _ = service.process.start_kill();
            service.process.wait().await?;
        }
        Ok(())
    }

    /// Kills as planned: each when the run has come so far, the last ones when it ends.
    pub async fn strike(
        &mut self,
        strikes: &[Strike],
        progress: impl Fn() -> f64,
        stop: &CancellationToken,
    ) -> anyhow::Result<Kills> {
        let mut kills = Kills::default();
        for strike in strikes {
            // What there was no time for before the end is left out, but for the last.
            if stop.is_cancelled() && strike.at < 1.0 {
                continue;
            }
            while progress() < strike.at && !stop.is_cancelled() {
                let _ = stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(10))).await;
            }
            self.kill(strike, &mut kills).await?;
        }
        stop.cancelled().await;
        for service in &mut self.running {
            service.note_fall(&mut kills)?;
        }
        Ok(kills)
    }

    async fn kill(&mut self, strike: &Strike, kills: &mut Kills) -> anyhow::Result<()> {
        for service in self.running.iter_mut().filter(|service| strike.victims.contains(&service.which)) {
            service.note_fall(kills)?;
            // One that has ended already, and was noted, cannot be killed.
            let _ = service.process.start_kill();
            *kills.by_service.entry(service.which.name()).or_default() += 1;
            kills.last = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_secs_f64(strike.down)).await;
        for index in 0..self.running.len() {
            let which = self.running[index].which;
            if strike.victims.contains(&which) {
                self.running[index].process.wait().await?;
                self.running[index].process = self.spawn(which)?;
            }
        }
        for service in self.running.iter_mut().filter(|service| strike.victims.contains(&service.which)) {
            service.ready(&self.folder).await?;
        }
        Ok(())
    }

    fn spawn(&self, which: Which) -> anyhow::Result<Child> {
        let path = log(&self.folder, which);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        let mut command = dying_with_us(&std::env::current_exe()?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SOUK_")) {
            command.env_remove(name);
        }
        command.arg(which.name()).envs(self.given.variables());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A group of its own: Ctrl-C is for the run, which ends it.
        command.process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| format!("the {} service cannot be started", which.name()))
    }
}

impl Service {
    async fn ready(&mut self, folder: &Path) -> anyhow::Result<()> {
        let scheme = if self.which == Which::Gateway { "http" } else { "grpc" };
        let (address, started) = (format!("{scheme}://{}", self.address), Instant::now());
        while let Err(error) = healthcheck::run(&address, None).await {
            let log = log(folder, self.which);
            if let Some(status) = self.process.try_wait()? {
                bail!("the {} service ended ({status}) before it was ready; see {}", self.which.name(), log.display());
            }
            if started.elapsed() > TIMEOUT {
                let name = self.which.name();
                return Err(error).with_context(|| format!("the {name} service is not ready; see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn note_fall(&mut self, kills: &mut Kills) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            kills.fallen.push(format!("the {} service ended by itself ({status})", self.which.name()));
        }
        Ok(())
    }
}

/// Where a service's output goes.
fn log(folder: &Path, which: Which) -> PathBuf {
    folder.join(format!("{}.log", which.name()))
}

/// Settings for all four, on free ports.
fn configure(data_dir: &DataDir, databases: Option<&Databases>) -> anyhow::Result<(Given, Vec<SocketAddr>)> {
    let ports = std::iter::repeat_with(|| rand::rng().random_range(PORTS)).take(PORTS.len());
    // All ports stay bound until all are known, so that none is assigned twice.
    let free = ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let listeners: Vec<_> = free.take(ALL.len()).collect();
    if listeners.len() < ALL.len() {
        bail!("there are no free ports from {} to {}", PORTS.start, PORTS.end);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let mut given = Given::default();
    let defaults = settings::alone(&given)?;
    given.set("data_dir", data_dir.path().display());
    given.set("telemetry.metrics_listen", "");
    given.set("gateway.rate_limits.enabled", false);
    given.set("gateway.access_log", false);
    for (which, address) in ALL.iter().zip(&addresses) {
        given.set(&format!("{}.listen", which.name()), address);
        if *which != Which::Gateway {
            given.set_address(&defaults, which.name(), &format!("http://{address}"));
        }
    }
    for service in settings::STORES {
        if let Some(databases) = databases {
            given.set(&format!("{service}.database.url"), databases.url(service)?);
        }
    }
    Ok((given, addresses))
}

/// A command that the kernel kills when we are killed ourselves, where util-linux's `setpriv` is there to ask it to.
/// `setpriv` turns into the program, so the process id is the program's own.
fn dying_with_us(program: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|file| file.is_file()) {
        Some(setpriv) if cfg!(target_os = "linux") => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    }
}
