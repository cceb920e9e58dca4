//! The run's own services: one process each, killed without warning and restarted.

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

/// How long a service may take to be ready.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Asks an address whether what is there is ready.
pub type Ready = fn(String) -> BoxFuture<'static, anyhow::Result<()>>;

/// A service, and where it listens.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// One of [`SERVICES`](super::SERVICES).
    pub name: &'static str,
    /// Its address.
    pub address: SocketAddr,
}

/// All four, running.
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
    /// Starts them on a data folder that has an administrator and the services' secret already. `variables` are all
    /// their settings; `is_ready` asks an address, `http://…` or `grpc://…`.
    ///
    /// # Errors
    /// Where one does not start, or is not ready in time.
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

    /// Where the gateway is.
    pub fn gateway(&self) -> String {
        let gateway = self.running.iter().find(|service| service.name == GATEWAY);
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
        for service in self.running.iter_mut().filter(|service| strike.victims.contains(&service.name)) {
            service.note_fall(kills)?;
            // One that has ended already, and was noted, cannot be killed.
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
        // A group of its own: Ctrl-C is for the run, which ends it.
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

/// Where a service's output goes.
fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
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
