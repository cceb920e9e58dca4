//! Private real servers: PostgreSQL, NATS and Redis, each in a temporary folder on a free port.
//!
//! Each runs under `supervisor`, which takes it down and removes its folder when the handle is
//! dropped or the process that holds it ends, be it by a panic, a signal or `kill -9`.

mod disk;
pub mod find;
pub mod install;
mod standby;
mod supervisor;
mod user;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

pub use self::disk::SmallDisk;
pub use self::standby::Pair;
use self::supervisor::{Plan, Supervised};

/// How long a server may take until it answers. Generous: CI machines are slow and busy.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// A free port may be taken by another between finding and binding it; then another one is tried.
const ATTEMPTS: usize = 5;

/// A running server. Dropping it stops the server and removes all it wrote.
#[derive(Debug)]
pub struct Server {
    url: String,
    port: u16,
    process: Supervised,
}

impl Server {
    /// Where clients connect, such as `postgres://postgres@127.0.0.1:40001/postgres`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's own process id, for tests that kill it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Settings of a private PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct Postgres {
    /// `default_transaction_isolation`, such as `serializable`; the server's default when absent.
    pub isolation: Option<String>,
}

impl Postgres {
    /// Starts a PostgreSQL with fsync on, so that what a killed service had committed is there.
    /// Blocks for one to two seconds. Fails when no PostgreSQL is installed or it does not start.
    pub fn start(&self) -> Result<Server> {
        let initdb = find::binary("initdb").context(find::missing("PostgreSQL", "postgresql"))?;
        let postgres = find::binary("postgres").context(find::missing("PostgreSQL", "postgresql"))?;
        // It refuses to run as root.
        let run_as = user::unprivileged()?;
        let isolation = self.isolation.as_deref().unwrap_or("read committed");
        start_on_free_port("postgres", "database system is ready to accept connections", |folder, port| {
            let data = folder.join("data");
            let script = "\"$1\" --pgdata=\"$2\" --username=postgres --auth=trust --encoding=UTF8 \
                 --locale=C --no-sync --no-instructions && shift 2 && exec \"$@\"";
            Plan::new("sh")
                .args(["-c", script, "sh"])
                .arg(&initdb)
                .arg(&data)
                .arg(&postgres)
                .arg("-D")
                .arg(&data)
                .settings([
                    ("listen_addresses", "127.0.0.1"),
                    ("port", &port.to_string()),
                    ("unix_socket_directories", &folder.display().to_string()),
                    ("fsync", "on"),
                    ("synchronous_commit", "on"),
                    ("max_connections", "400"),
                    ("timezone", "UTC"),
                    ("default_transaction_isolation", isolation),
                ])
                .run_as(run_as.clone())
                // Immediate shutdown: the folder goes anyway, a last checkpoint would be waste.
                .stop_signal("QUIT")
        })
        .map(|(port, process)| Server {
            url: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            port,
            process,
        })
    }
}

/// Starts a private PostgreSQL with its default settings; see [`Postgres::start`].
pub fn postgres() -> Result<Server> {
    Postgres::default().start()
}

/// Starts a private NATS server with JetStream, its store in the temporary folder.
pub fn nats() -> Result<Server> {
    let binary = find::binary("nats-server").context(find::missing("NATS", "nats-server"))?;
    let (port, process) = start_on_free_port("nats", "Server is ready", |folder, port| {
        Plan::new(&binary)
            .args(["--addr", "127.0.0.1", "--jetstream", "--port"])
            .arg(port.to_string())
            .arg("--store_dir")
            .arg(folder.join("data"))
            .stop_signal("TERM")
    })?;
    Ok(Server { url: format!("nats://127.0.0.1:{port}"), port, process })
}

/// Starts a private Redis that keeps nothing on disk.
pub fn redis() -> Result<Server> {
    start_redis(None)
}

/// The same on a given port: where another one was killed, and is to be there again.
pub fn redis_at(port: u16) -> Result<Server> {
    start_redis(Some(port))
}

fn start_redis(port: Option<u16>) -> Result<Server> {
    let binary = find::binary("redis-server")
        .or_else(|| find::binary("valkey-server"))
        .context(find::missing("Redis", "redis-server"))?;
    let plan = |folder: &Path, port: u16| {
        Plan::new(&binary)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder)
            .arg("--port")
            .arg(port.to_string())
            .stop_signal("TERM")
    };
    let ready = "Ready to accept connections";
    let (port, process) = match port {
        None => start_on_free_port("redis", ready, plan)?,
        Some(port) => match start_on("redis", ready, port, plan)? {
            Some(process) => (port, process),
            None => bail!("the port {port} is taken"),
        },
    };
    Ok(Server { url: format!("redis://127.0.0.1:{port}"), port, process })
}

/// A temporary folder that is removed when this is dropped or the process that holds it ends, however
/// that happens. Other users may enter it: a PostgreSQL that runs in it is one.
#[derive(Debug)]
pub struct Scratch(Supervised);

impl Scratch {
    /// Makes the folder.
    pub fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // A server that serves nothing.
        let process = Supervised::start("tests", |_| Plan::new("sleep").arg("2147483647"))?;
        std::fs::set_permissions(process.folder(), std::fs::Permissions::from_mode(0o1777))?;
        Ok(Self(process))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.folder()
    }
}

/// Starts what `plan` says on a free port; again on another one if that was snatched away.
fn start_on_free_port(name: &str, ready: &str, plan: impl Fn(&Path, u16) -> Plan) -> Result<(u16, Supervised)> {
    for _ in 0..ATTEMPTS {
        let port = free_port()?;
        if let Some(process) = start_on(name, ready, port, &plan)? {
            return Ok((port, process));
        }
    }
    bail!("{name} found its port taken {ATTEMPTS} times in a row")
}

/// Starts what `plan` says and waits until its log contains `ready`; `None` where the port is taken. The log tells
/// what a connection cannot: that it is this server which answers there, and not the one that was faster.
fn start_on(name: &str, ready: &str, port: u16, plan: impl Fn(&Path, u16) -> Plan) -> Result<Option<Supervised>> {
    let process = Supervised::start(name, |folder| plan(folder, port))?;
    let start = Instant::now();
    loop {
        // In this order: what has exited has written its log.
        let exited = process.exited();
        let log = process.log();
        if log.contains(ready) && !exited {
            return Ok(Some(process));
        }
        if exited && log.to_lowercase().contains("address already in use") {
            return Ok(None);
        }
        if exited {
            bail!("{name} did not start; its log:\n{log}");
        }
        if start.elapsed() > START_DEADLINE {
            bail!("{name} is not ready after {START_DEADLINE:?}; its log:\n{log}");
        }
        pause();
    }
}

/// Between two looks at a starting server.
#[expect(clippy::disallowed_methods, reason = "starting a server is blocking work as a whole")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Ports that systems do not give out by themselves: one that was free stays so until a server is started there, or
/// started again.
const PORTS: Range<u16> = 10_000..30_000;
/// As many are for each of the tests that run at a time, which nextest numbers.
const PORTS_EACH: usize = 200;

/// A TCP port on 127.0.0.1 that is free, and that this process was not given before.
pub fn free_port() -> Result<u16> {
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| {
        let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse::<usize>().ok());
        let random = || Uuid::new_v4().as_fields().1.into();
        AtomicUsize::new(slot.map_or_else(random, |slot| slot * PORTS_EACH))
    });
    std::iter::repeat_with(|| PORTS.start + (NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len()) as u16)
        .take(PORTS.len())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free TCP port")
}
