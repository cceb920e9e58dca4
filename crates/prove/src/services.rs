//! The run's own services: a process for each, which is killed (SIGKILL) and restarted.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use tokio::{
    process::{Child, Command},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::plan::{GATEWAY, Strike};

/// How long a service may take to become ready.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Checks if the service at an address is ready.
pub type Ready = fn(String) -> BoxFuture<'static, anyhow::Result<()>>;

/// A service and its address.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// One of [`SERVICES`](super::SERVICES).
    pub name: &'static str,
    /// The address that the service listens on.
    pub address: SocketAddr,
}

/// The four running services.
pub struct Services {
    variables: Vec<(String, String)>,
    folder: PathBuf,
    is_ready: Ready,
    running: Vec<Running>,
}

struct Running {
    name: &'static str,
    address: SocketAddr,
    process: Child,
}

/// The kills of services, and the services that ended by themselves.
#[derive(Default)]
pub struct Kills {
    /// How often each service was killed.
    pub by_service: BTreeMap<&'static str, u64>,
    /// The time of the last kill.
    pub last: Option<Instant>,
    /// Services that ended without being killed.
    pub fallen: Vec<String>,
}

impl Services {
    /// Starts the services on a data folder that already has an administrator and the services' secret. `variables` are
    /// all their settings. `is_ready` checks an address, `http://…` or `grpc://…`.
    ///
    /// # Errors
    /// If a service does not start, or is not ready in time.
    pub async fn start(
        folder: &Path,
        variables: Vec<(String, String)>,
        services: Vec<Service>,
        is_ready: Ready,
    ) -> anyhow::Result<Self> {
        let mut started = Self { variables, folder: folder.to_owned(), is_ready, running: Vec::new() };
        for Service { name, address } in services {
            let process = started.spawn(name)?;
            started.running.push(Running { name, address, process });
        }
        for service in &mut started.running {
            service.ready(&started.folder, is_ready).await?;
        }
        Ok(started)
    }

    /// The URL of the gateway.
    pub fn gateway(&self) -> String {
        let gateway = self.running.iter().find(|service| service.name == GATEWAY);
        gateway.map_or_else(String::new, |gateway| format!("http://{}", gateway.address))
    }

    /// Kills all services, and waits until they have ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for service in &mut self.running {
            // The error if the process has ended already is ignored.
            let _ = service.process.start_kill();
            service.process.wait().await?;
        }
        Ok(())
    }

    /// Carries out the planned kills: each at its progress of the run, the last ones at the end.
    pub async fn strike(
        &mut self,
        strikes: &[Strike],
        progress: impl Fn() -> f64,
        stop: &CancellationToken,
    ) -> anyhow::Result<Kills> {
        let mut kills = Kills::default();
        for strike in strikes {
            // Kills whose time did not come before the end are skipped, except for the last one.
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
        for service in self.running.iter_mut().filter(|service| strike.victims.contains(&service.name)) {
            service.note_fall(kills)?;
            // The error if the process has ended already is ignored: this was recorded before.
            let _ = service.process.start_kill();
            *kills.by_service.entry(service.name).or_default() += 1;
            kills.last = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_secs_f64(strike.down)).await;
        for index in 0..self.running.len() {
            let name = self.running[index].name;
            if strike.victims.contains(&name) {
                self.running[index].process.wait().await?;
                self.running[index].process = self.spawn(name)?;
            }
        }
        for service in self.running.iter_mut().filter(|service| strike.victims.contains(&service.name)) {
            service.ready(&self.folder, self.is_ready).await?;
        }
        Ok(())
    }

    fn spawn(&self, name: &str) -> anyhow::Result<Child> {
        let path = log(&self.folder, name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        let mut command = dying_with_us(&std::env::current_exe()?);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SOUK_")) {
            command.env_remove(variable);
        }
        command.arg(name).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A separate process group, so that Ctrl-C reaches only the run, which then stops the services.
        command.process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| format!("the {name} service cannot be started"))
    }
}

impl Running {
    async fn ready(&mut self, folder: &Path, is_ready: Ready) -> anyhow::Result<()> {
        let scheme = if self.name == GATEWAY { "http" } else { "grpc" };
        let (address, started) = (format!("{scheme}://{}", self.address), Instant::now());
        while let Err(error) = is_ready(address.clone()).await {
            let log = log(folder, self.name);
            if let Some(status) = self.process.try_wait()? {
                bail!("the {} service ended ({status}) before it was ready; see {}", self.name, log.display());
            }
            if started.elapsed() > TIMEOUT {
                let name = self.name;
                return Err(error).with_context(|| format!("the {name} service is not ready; see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn note_fall(&mut self, kills: &mut Kills) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            kills.fallen.push(format!("the {} service ended by itself ({status})", self.name));
        }
        Ok(())
    }
}

/// The log file of a service.
fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// A command that the kernel kills when this process ends, if `setpriv` of util-linux is installed. `setpriv` replaces
/// itself with the program, so the process id is that of the program.
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
