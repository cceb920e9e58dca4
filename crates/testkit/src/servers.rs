//! Private real servers: PostgreSQL, PgBouncer, NATS and Redis, each in a temporary folder on a free port.
//!
//! Each server runs under `supervisor`, which stops the server and removes its folder when the handle is dropped or the
//! test process ends, even by a panic, a signal or `kill -9`.

mod disk;
pub mod install;
mod standby;
mod supervisor;
mod user;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

pub use self::disk::SmallDisk;
pub use self::standby::Pair;
use self::supervisor::{Plan, Supervised};
use crate::{find, tls::Files};

/// How long a server may take to become ready. This is long, because CI machines are slow and busy.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// How many ports are tried. Another process may bind a free port before the server does.
const ATTEMPTS: usize = 5;

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Server {
    url: String,
    port: u16,
    process: Supervised,
}

impl Server {
    /// The URL for clients, such as `postgres://postgres@127.0.0.1:40001/postgres`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server, for tests that kill it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The log of the server so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Settings of a private PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct Postgres {
    /// `default_transaction_isolation`, such as `serializable`; the server's default when absent.
    pub isolation: Option<String>,
    /// The password of the user `postgres`. It is only checked if `access` says so.
    pub password: Option<String>,
    /// Lines of `pg_hba.conf`. Without them, everyone has access.
    pub access: Option<String>,
    /// Certificates for TLS. Without them, the server has no TLS.
    pub tls: Option<ServerTls>,
}

/// The TLS certificates of a server.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The certificate of the server and its key.
    pub own: Files,
    /// The authority that signs the certificates of clients.
    pub ca: PathBuf,
}

impl ServerTls {
    /// Copies the files into `folder`, so that only the server can read them.
    fn install(&self, folder: &Path, run_as: Option<&user::User>) -> Result<[PathBuf; 3]> {
        let place = |from: &Path, name: &str| -> Result<PathBuf> {
            let to = folder.join(name);
            private_file(&to, &std::fs::read(from)?, run_as)?;
            Ok(to)
        };
        Ok([place(&self.own.certificate, "tls.crt")?, place(&self.own.key, "tls.key")?, place(&self.ca, "ca.crt")?])
    }
}

/// Writes a file that only the server can read.
fn private_file(path: &Path, contents: &[u8], run_as: Option<&user::User>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, contents)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(user) = run_as {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// A shell that makes the data folder and then executes the server. `make` is a command in which `$1` is the program,
/// `$2` the folder and `$3` the argument.
fn cluster(make: &str, program: &str, argument: &OsStr, (folder, port): (&Path, u16)) -> Result<Plan> {
    let program = find::binary(program).context(find::missing("PostgreSQL", "postgresql"))?;
    let postgres = find::binary("postgres").context(find::missing("PostgreSQL", "postgresql"))?;
    let data = folder.join("data");
    let script = format!("{make} && shift 3 && exec \"$@\"");
    let plan = Plan::new("sh").args(["-c", &script, "sh"]).arg(&program).arg(&data).arg(argument);
    let plan = plan.arg(&postgres).arg("-D").arg(&data).settings([
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", &folder.display().to_string()),
        ("fsync", "on"),
        ("max_connections", "400"),
        ("timezone", "UTC"),
    ]);
    // This is an immediate shutdown: the folder is removed anyway, so a last checkpoint would be useless.
    Ok(plan.stop_signal("QUIT"))
}

impl Postgres {
    /// Starts a PostgreSQL with fsync on, so that the commits of a killed service are not lost. Blocks for one to two
    /// seconds. Fails if no PostgreSQL is installed or it does not start.
    pub fn start(&self) -> Result<Server> {
        // PostgreSQL refuses to run as root.
        let run_as = user::unprivileged()?;
        let isolation = self.isolation.as_deref().unwrap_or("read committed");
        let password = self.password.as_deref().unwrap_or("postgres");
        start_on_free_port("postgres", "database system is ready to accept connections", |folder, port| {
            let word = folder.join("password");
            private_file(&word, password.as_bytes(), run_as.as_ref())?;
            let files = self.tls.as_ref().map(|tls| tls.install(folder, run_as.as_ref())).transpose()?;
            let make = "\"$1\" --pgdata=\"$2\" --pwfile=\"$3\" --username=postgres --auth=trust --encoding=UTF8 \
                 --locale=C --no-sync --no-instructions";
            let plan = cluster(make, "initdb", word.as_os_str(), (folder, port))?
                .settings([("synchronous_commit", "on"), ("default_transaction_isolation", isolation)])
                .run_as(run_as.clone());
            let plan = match &self.access {
                None => plan,
                Some(lines) => {
                    let access = folder.join("access");
                    private_file(&access, lines.as_bytes(), run_as.as_ref())?;
                    plan.settings([("hba_file", &*access.display().to_string())])
                }
            };
            Ok(match files {
                None => plan,
                Some([certificate, key, ca]) => plan.settings([
                    ("ssl", "on"),
                    ("ssl_cert_file", &certificate.display().to_string()),
                    ("ssl_key_file", &key.display().to_string()),
                    ("ssl_ca_file", &ca.display().to_string()),
                ]),
            })
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

/// Server connections of PgBouncer for one database. There are fewer than client connections, so that clients share
/// them.
const SHARED: usize = 4;

/// Starts a private PgBouncer in transaction mode in front of the PostgreSQL on the port `postgres`. The URL tells souk
/// that there is a transaction pooler.
pub fn pgbouncer(postgres: u16) -> Result<Server> {
    let binary = find::binary("pgbouncer").context(find::missing("PgBouncer", "pgbouncer"))?;
    // PgBouncer refuses to run as root.
    let run_as = user::unprivileged()?;
    let (port, process) = start_on_free_port("pgbouncer", "process up", |folder, port| {
        let (settings, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        private_file(&users, b"\"postgres\" \"\"\n", run_as.as_ref())?;
        let text = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={postgres}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = trust\n\
             auth_file = {}\n\
             pool_mode = transaction\n\
             max_client_conn = 2000\n\
             default_pool_size = {SHARED}\n\
             server_idle_timeout = 5\n",
            users.display()
        );
        private_file(&settings, text.as_bytes(), run_as.as_ref())?;
        // PgBouncer has no data to lose, and its versions disagree on which signal waits for clients.
        Ok(Plan::new(&binary).arg(&settings).run_as(run_as.clone()).stop_signal("KILL"))
    })?;
    Ok(Server { url: format!("postgres://postgres@127.0.0.1:{port}/postgres?pooler=transaction"), port, process })
}

/// Starts a private NATS server with JetStream, whose store is in the temporary folder.
pub fn nats() -> Result<Server> {
    start_nats(None)
}

/// Starts a private NATS server that accepts only TLS connections from clients with a certificate.
pub fn nats_tls(tls: &ServerTls) -> Result<Server> {
    start_nats(Some(tls))
}

fn start_nats(tls: Option<&ServerTls>) -> Result<Server> {
    let binary = find::binary("nats-server").context(find::missing("NATS", "nats-server"))?;
    let (port, process) = start_on_free_port("nats", "Server is ready", |folder, port| {
        let plan = Plan::new(&binary)
            .args(["--addr", "127.0.0.1", "--jetstream", "--port"])
            .arg(port.to_string())
            .arg("--store_dir")
            .arg(folder.join("data"))
            .stop_signal("TERM");
        Ok(match tls {
            None => plan,
            Some(tls) => {
                let [certificate, key, ca] = tls.install(folder, None)?;
                let plan = plan.arg("--tlsverify").arg("--tlscert").arg(certificate).arg("--tlskey").arg(key);
                plan.arg("--tlscacert").arg(ca)
            }
        })
    })?;
    let scheme = if tls.is_some() { "tls" } else { "nats" };
    Ok(Server { url: format!("{scheme}://127.0.0.1:{port}"), port, process })
}

/// Starts a private Redis without persistence.
pub fn redis() -> Result<Server> {
    start_redis(None, None)
}

/// Starts a private Redis that accepts only TLS connections from clients with a certificate.
pub fn redis_tls(tls: &ServerTls) -> Result<Server> {
    start_redis(None, Some(tls))
}

/// Starts a private Redis on a given port, to replace one that was killed.
pub fn redis_at(port: u16) -> Result<Server> {
    start_redis(Some(port), None)
}

fn start_redis(port: Option<u16>, tls: Option<&ServerTls>) -> Result<Server> {
    let binary = find::binary("redis-server")
        .or_else(|| find::binary("valkey-server"))
        .context(find::missing("Redis", "redis-server"))?;
    let plan = |folder: &Path, port: u16| {
        let plan = Plan::new(&binary)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder)
            .stop_signal("TERM");
        Ok(match tls {
            None => plan.arg("--port").arg(port.to_string()),
            Some(tls) => {
                let [certificate, key, ca] = tls.install(folder, None)?;
                let plan = plan.args(["--port", "0", "--tls-port"]).arg(port.to_string()).arg("--tls-cert-file");
                let plan = plan.arg(certificate).arg("--tls-key-file").arg(key).arg("--tls-ca-cert-file").arg(ca);
                plan.args(["--tls-auth-clients", "yes"])
            }
        })
    };
    let ready = "Ready to accept connections";
    let (port, process) = match port {
        None => start_on_free_port("redis", ready, plan)?,
        Some(port) => match start_on("redis", ready, port, plan)? {
            Some(process) => (port, process),
            None => bail!("the port {port} is taken"),
        },
    };
    let scheme = if tls.is_some() { "rediss" } else { "redis" };
    Ok(Server { url: format!("{scheme}://127.0.0.1:{port}"), port, process })
}

/// A temporary folder that is removed when this is dropped or the process ends, for whatever reason. Other users may
/// enter it, because a PostgreSQL in it runs as another user.
#[derive(Debug)]
pub struct Scratch(Supervised);

impl Scratch {
    /// Makes the folder.
    pub fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // The supervised process does nothing; only its folder is used.
        let process = Supervised::start("tests", |_| Ok(Plan::new("sleep").arg("2147483647")))?;
        std::fs::set_permissions(process.folder(), std::fs::Permissions::from_mode(0o1777))?;
        Ok(Self(process))
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        self.0.folder()
    }
}

/// Starts the server of `plan` on a free port; tries another port if a different process has bound the first one.
fn start_on_free_port(name: &str, ready: &str, plan: impl Fn(&Path, u16) -> Result<Plan>) -> Result<(u16, Supervised)> {
    for _ in 0..ATTEMPTS {
        let port = free_port()?;
        if let Some(process) = start_on(name, ready, port, &plan)? {
            return Ok((port, process));
        }
    }
    bail!("{name} found its port taken {ATTEMPTS} times in a row")
}

/// Starts the server of `plan` and waits until its log contains `ready`; `None` if the port is in use. This reads the
/// log because a connection may reach another server, which bound the port first.
fn start_on(
    name: &str,
    ready: &str,
    port: u16,
    plan: impl Fn(&Path, u16) -> Result<Plan>,
) -> Result<Option<Supervised>> {
    let process = Supervised::start(name, |folder| plan(folder, port))?;
    let start = Instant::now();
    loop {
        // The order matters: a process that has exited has written its whole log.
        let exited = process.exited();
        let log = process.log();
        if log.contains(ready) && !exited {
            return Ok(Some(process));
        }
        // PgBouncer does not exit at once if the port is in use.
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

/// The pause between two looks at a starting server.
#[expect(clippy::disallowed_methods, reason = "starting a server is blocking work as a whole")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Ports outside the ephemeral range: the system assigns none of them, so a free port stays free until a server starts
/// or restarts on it.
const PORTS: Range<u16> = 10_000..30_000;
/// The number of ports for each test that runs at the same time. nextest numbers these tests.
const PORTS_EACH: usize = 200;

/// A free TCP port on 127.0.0.1 that was not returned to this process before.
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
