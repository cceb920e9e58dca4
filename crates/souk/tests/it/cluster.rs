//! souk as it runs in production: one process for each service. Each can be killed and restarted at the same address.

use std::{path::Path, time::Duration};

use serde_json::Value;
use souk_testkit::{
    db::{self, Engine, TestDatabase},
    process::{Process, Program},
    servers, wait,
};
use tempfile::TempDir;

use super::rest::Rest;

/// How long the system may take to be ready.
const READY: Duration = Duration::from_secs(60);
const ADMIN: (&str, &str) = ("admin@example.com", "the administrator");

/// The binary under test.
pub fn souk() -> Program {
    Program::new(env!("CARGO_BIN_EXE_souk"), "is ready")
}

/// `souk up` with its own data folder.
pub struct Up {
    pub process: Process,
    pub folder: TempDir,
    pub gateway: String,
}

impl Up {
    pub async fn start() -> Self {
        Self::start_with(|program| program).await
    }

    /// Starts it with further arguments or variables.
    pub async fn start_with(more: impl FnOnce(Program) -> Program) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = souk().args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path());
        let process = more(program).start().await;
        // The last line of the start-up output: everything has been printed then.
        process.line_with("grpcurl -plaintext", Duration::from_secs(10)).await;
        let gateway = running(folder.path());
        Self { process, folder, gateway }
    }

    /// The address of a service (`order`).
    pub fn service(&self, name: &str) -> String {
        let log = self.process.log();
        let line = log.lines().find(|line| line.trim_start().starts_with(name) && line.ends_with("(gRPC)")).unwrap();
        format!("http://{}", line.split_whitespace().nth(1).unwrap())
    }

    /// Logs in as the administrator whose credentials `souk up` stored.
    pub async fn admin(&self) -> Rest {
        administrator(&self.gateway, self.folder.path()).await
    }
}

/// Logs in as the administrator whose credentials `souk up` stored in its folder.
pub async fn administrator(gateway: &str, folder: &Path) -> Rest {
    let credentials: Value = serde_json::from_slice(&std::fs::read(folder.join("admin.json")).unwrap()).unwrap();
    let text = |key: &str| credentials[key].as_str().unwrap().to_owned();
    Rest::anonymous(gateway).log_in(&text("email"), &text("password")).await
}

/// `souk up` on new databases of an engine.
pub struct UpOn {
    pub up: Up,
    databases: [TestDatabase; 3],
}

impl UpOn {
    /// Starts it without rate limits, with further arguments or variables.
    pub async fn start(engine: Engine, more: impl FnOnce(Program) -> Program) -> Self {
        let databases = Ground::databases(engine).await;
        let up = Up::start_with(|program| {
            more(configure(program, &databases, &[]).env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false"))
        })
        .await;
        Self { up, databases }
    }

    /// Fails unless `souk verify` finds that every promise holds.
    pub async fn verify(&self) {
        verify(&self.databases, &self.up.folder).await;
    }
}

/// The gateway's address, which the souk on this folder stored.
pub fn running(folder: &Path) -> String {
    let running: Value = serde_json::from_slice(&std::fs::read(folder.join("running.json")).unwrap()).unwrap();
    running["gateway"].as_str().unwrap().to_owned()
}

/// What a cluster needs: empty databases, ports and a data folder.
pub struct Ground {
    folder: TempDir,
    /// The databases of users, inventory and orders.
    pub databases: [TestDatabase; 3],
    /// The ports of users, inventory, orders, the gateway, and the second replica of inventory.
    pub ports: Vec<u16>,
}

impl Ground {
    pub async fn new(engine: Engine) -> Self {
        Self::with(Self::databases(engine).await)
    }

    async fn databases(engine: Engine) -> [TestDatabase; 3] {
        [
            db::database(engine, "user").await,
            db::database(engine, "inventory").await,
            db::database(engine, "order").await,
        ]
    }

    /// Uses these databases of users, inventory and orders.
    pub fn with(databases: [TestDatabase; 3]) -> Self {
        let ports = (0..5).map(|_| servers::free_port().unwrap()).collect();
        Self { folder: tempfile::tempdir().unwrap(), databases, ports }
    }
}

/// A process for each service, and a gateway without rate limits: load from one address would exhaust them on a fast
/// machine.
pub struct Cluster {
    pub inventory: Process,
    /// A second replica of inventory, if there is one.
    pub replica: Option<Process>,
    pub gateway: String,
    others: [Process; 3],
    databases: [TestDatabase; 3],
    ports: Vec<u16>,
    folder: TempDir,
}

impl Cluster {
    /// Starts everything on new databases of this engine.
    pub async fn start(engine: Engine) -> Self {
        Self::on(Ground::new(engine).await, false, |_, program| program).await
    }

    /// Starts everything on prepared ground. With `two`, there are two replicas of inventory on one database. `more`
    /// adds arguments or variables to a service (`order`).
    pub async fn on(ground: Ground, two: bool, more: impl Fn(&str, Program) -> Program) -> Self {
        let Ground { folder, databases, ports } = ground;
        let [user, inventory, order, gateway, replica] = ports.as_slice() else { unreachable!() };
        let service = |name: &str, port: &u16| {
            let program = Program::new(env!("CARGO_BIN_EXE_souk"), "serving")
                .args([name, "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
                .arg(folder.path())
                .env("SOUK_TELEMETRY__METRICS_LISTEN", "")
                .env("SOUK_TELEMETRY__LOG_FILTER", "info,souk=debug")
                .env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false");
            let program = more(name, configure(program, &databases, &ports));
            let both = format!("http://127.0.0.1:{inventory},http://127.0.0.1:{replica}");
            if two { program.env("SOUK_GATEWAY__BACKENDS__SOUK__INVENTORY", both) } else { program }
        };
        let admin = configure(souk(), &databases, &ports)
            .args(["user", "create-admin", "--email", ADMIN.0, "--data-dir"])
            .arg(folder.path())
            .env("SOUK_ADMIN_PASSWORD", ADMIN.1);
        let (status, log) = admin.run().await;
        assert!(status.success(), "{log}");
        let user = service("user", user).start().await;
        let replica = if two { Some(service("inventory", replica).start().await) } else { None };
        let inventory = service("inventory", inventory).start().await;
        let order = service("order", order).start().await;
        let gateway_process = service("gateway", gateway).start().await;
        let gateway = format!("http://127.0.0.1:{gateway}");
        let cluster =
            Self { inventory, replica, gateway, others: [user, order, gateway_process], databases, ports, folder };
        cluster.ready().await;
        cluster
    }

    /// Starts another gateway in front of the same services. Returns it and its address.
    pub async fn second_gateway(&self) -> (Process, String) {
        let address = format!("127.0.0.1:{}", servers::free_port().unwrap());
        let program = Program::new(env!("CARGO_BIN_EXE_souk"), "serving")
            .args(["gateway", "--listen", &address, "--data-dir"])
            .arg(self.folder.path())
            .env("SOUK_TELEMETRY__METRICS_LISTEN", "");
        (configure(program, &self.databases, &self.ports).start().await, format!("http://{address}"))
    }

    /// A second replica of each service on the same databases, behind a gateway that knows these alone. Returns the
    /// ports of users, inventory, orders and the gateway. `more` is as for [`Self::on`].
    pub async fn twin(&self, more: impl Fn(&str, Program) -> Program) -> (Vec<Process>, Vec<u16>) {
        let ports: Vec<u16> = (0..4).map(|_| servers::free_port().unwrap()).collect();
        let mut processes = Vec::new();
        for (name, port) in ["user", "inventory", "order", "gateway"].iter().zip(&ports) {
            let program = Program::new(env!("CARGO_BIN_EXE_souk"), "serving")
                .args([*name, "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
                .arg(self.folder.path())
                .env("SOUK_TELEMETRY__METRICS_LISTEN", "")
                .env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false");
            processes.push(more(name, configure(program, &self.databases, &ports)).start().await);
        }
        (processes, ports)
    }

    /// The database of users.
    pub fn users(&self) -> &TestDatabase {
        &self.databases[0]
    }

    /// The ports of users, inventory, orders, the gateway, and the second replica of inventory.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Waits until every service reports that it is ready.
    pub async fn ready(&self) {
        let client = Rest::anonymous(&self.gateway);
        wait::until(READY, "the cluster to be ready", async || {
            matches!(client.send(reqwest::Method::GET, "/readyz", None).await, Ok(answer) if answer.status == 200)
        })
        .await;
    }

    pub async fn admin(&self) -> Rest {
        Rest::anonymous(&self.gateway).log_in(ADMIN.0, ADMIN.1).await
    }

    /// `souk prove` on this cluster through its gateway, with `souk verify` at the end. The program counts as ready
    /// when its buyers begin to order.
    pub fn prove(&self) -> Program {
        let credentials = serde_json::json!({ "email": ADMIN.0, "password": ADMIN.1 });
        std::fs::write(self.folder.path().join("admin.json"), credentials.to_string()).unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_souk"), "The buyers order")
            .args(["prove", "--url", &self.gateway, "--data-dir"])
            .arg(self.folder.path());
        configure(program, &self.databases, &[])
    }

    /// What the processes have logged so far.
    pub fn logs(&self) -> String {
        let all = self.others.iter().chain([&self.inventory]);
        all.map(Process::log).collect::<Vec<_>>().join("\n\n")
    }

    /// Fails unless `souk verify` finds that every promise holds.
    pub async fn verify(&self) {
        verify(&self.databases, &self.folder).await;
    }

    /// The process of the gateway.
    pub fn gateway_process(&mut self) -> &mut Process {
        let [.., gateway] = &mut self.others;
        gateway
    }
}

async fn verify(databases: &[TestDatabase; 3], folder: &TempDir) {
    let program = configure(souk(), databases, &[]).args(["verify", "--data-dir"]).arg(folder.path());
    let (status, log) = program.run().await;
    assert!(status.success(), "{log}");
}

/// Configures the addresses of databases and services for a process.
fn configure(program: Program, databases: &[TestDatabase; 3], ports: &[u16]) -> Program {
    let names = ["user", "inventory", "order"];
    let mut program = program;
    for (name, database) in names.iter().zip(databases) {
        program = program.env(format!("SOUK_{}__DATABASE__URL", name.to_uppercase()), &database.url);
    }
    for (name, port) in names.iter().zip(ports) {
        let (address, name) = (format!("http://127.0.0.1:{port}"), name.to_uppercase());
        program = program.env(format!("SOUK_GATEWAY__BACKENDS__SOUK__{name}"), &address);
        for caller in ["INVENTORY", "ORDER"] {
            if caller != name && !(caller == "INVENTORY" && name == "ORDER") {
                program = program.env(format!("SOUK_{caller}__CLIENTS__{name}__ADDRESS"), &address);
            }
        }
    }
    program
}
