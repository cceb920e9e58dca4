//! Runs `docker-compose.yml` without containers: the same commands with the same settings, but with paths and addresses
//! of this machine.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, time::Duration};

use serde_norway::Value;
use souk_common::{
    auth::ServiceTokens,
    client::{self, Client},
    config::Secret,
    contract::Contract,
    error::{Problem, Reason},
    ids::OrderId,
    local::Local,
    tls::{ClientSettings, ClientTls},
};
use souk_proto::{
    inventory::v1::{ReleaseReservationRequest, reservation_service_client::ReservationServiceClient},
    user::v1::{GetJsonWebKeySetRequest, session_service_client::SessionServiceClient},
};
use souk_testkit::{process::Program, servers, wait};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{
    cluster::souk,
    rest::{Rest, order},
};

const SERVED: [&str; 3] = ["user", "inventory", "order"];
const ADMIN: (&str, &str) = ("admin@example.com", "the administrator");
const SECRET: &str = "4f0c8a1b9e2d7f6035a4c8e1b7d90f3246ac58e1d7b3f902";

/// The file, and the paths of its parts on this machine.
struct Compose {
    services: Value,
    folder: TempDir,
    /// The port of each service, and its port for probes and metrics.
    ports: BTreeMap<&'static str, u16>,
    probes: BTreeMap<&'static str, u16>,
}

impl Compose {
    fn read() -> Self {
        let mut file: Value = serde_norway::from_str(include_str!("../../../../docker-compose.yml")).unwrap();
        file.apply_merge().unwrap();
        let ports =
            || ["user", "inventory", "order", "gateway"].map(|name| (name, servers::free_port().unwrap())).into();
        let folder = tempfile::tempdir().unwrap();
        Self { services: file["services"].clone(), folder, ports: ports(), probes: ports() }
    }

    /// The volumes of a service, by their paths in the container.
    fn volumes(&self, service: &str) -> BTreeMap<String, String> {
        let volumes = self.services[service]["volumes"].as_sequence().unwrap();
        let split = |volume: &Value| {
            let (name, path) = volume.as_str().unwrap().split_once(':').unwrap();
            (path.trim_end_matches(":ro").to_owned(), name.to_owned())
        };
        volumes.iter().map(split).collect()
    }

    /// A service's command. It must not contain paths.
    fn command(&self, service: &str) -> Vec<String> {
        let command = self.services[service]["command"].as_sequence().unwrap();
        command.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    /// Creates the certificates with the job of the file, in one folder for each volume.
    async fn certificates(&self) {
        let made = self.folder.path().join("certificates");
        let folder = made.to_str().unwrap();
        let args = self.command("certificates").into_iter().map(|word| word.replace("/certificates", folder));
        let (status, log) = souk().args(args).run().await;
        assert!(status.success(), "{log}");
        for (path, volume) in self.volumes("certificates") {
            let place = self.folder.path().join(volume);
            let _ = std::fs::remove_dir_all(&place);
            std::fs::create_dir(&place).unwrap();
            for file in std::fs::read_dir(path.replace("/certificates", folder)).unwrap() {
                let file = file.unwrap().path();
                std::fs::copy(&file, place.join(file.file_name().unwrap())).unwrap();
            }
        }
    }

    /// A service's settings, with paths and addresses of this machine instead of those of the containers.
    fn settings(&self, service: &str) -> BTreeMap<String, String> {
        let volumes = self.volumes(service);
        assert_eq!(volumes.len(), 1, "a service sees its own certificate alone: {volumes:?}");
        let certificates = self.folder.path().join(&volumes["/certificates"]);
        let mut settings = BTreeMap::new();
        for (name, value) in self.services[service]["environment"].as_mapping().unwrap() {
            let (name, mut value) = (name.as_str().unwrap(), value.as_str().unwrap().to_owned());
            // This test leaves out these parts. It uses SQLite instead of PostgreSQL.
            if ["DATABASE__URL", "NATS_URL", "OTLP_ENDPOINT", "METRICS_LISTEN"].iter().any(|end| name.ends_with(end)) {
                continue;
            }
            value = value.replace("/certificates", certificates.to_str().unwrap());
            for (called, port) in &self.ports {
                value = value.replace(&format!("//{called}:9000"), &format!("//localhost:{port}"));
            }
            if value.starts_with("0.0.0.0:") {
                value = format!("127.0.0.1:{}", self.ports[service]);
            }
            value = match value.as_str() {
                text if text.starts_with("${SOUK_INTERNAL_SECRET") => SECRET.to_owned(),
                text if text.starts_with("${PAYMENT_PROVIDER") => "simulated".to_owned(),
                text => text.to_owned(),
            };
            assert!(!value.contains("${"), "{name}: say here what {value} is");
            settings.insert(name.to_owned(), value);
        }
        settings
    }

    fn program(&self, service: &str, ready: &str) -> Program {
        let program = Program::new(env!("CARGO_BIN_EXE_souk"), ready)
            .env("SOUK_DATA_DIR", self.folder.path().join("data"))
            .env("SOUK_TELEMETRY__METRICS_LISTEN", format!("127.0.0.1:{}", self.probes[service]));
        self.settings(service).into_iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Runs the health check of a service as its container does: the one of the image.
    async fn is_healthy(&self, service: &str) -> bool {
        assert!(self.services[service].get("healthcheck").is_none(), "{service} has one of its own");
        let image = include_str!("../../../../deploy/Dockerfile");
        let check = image.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
        let words: Vec<String> = serde_json::from_str(check.split_once("CMD ").unwrap().1).unwrap();
        let [_, args @ ..] = &words[..] else { panic!("{check}") };
        let port = format!(":{}", self.probes[service]);
        souk().args(args.iter().map(|word| word.replace(":9464", &port))).run().await.0.success()
    }

    /// A client of a service, with or without a certificate, and with the service token of `name` if given.
    fn client(&self, service: &str, certificate: Option<&str>, name: Option<&str>) -> Client {
        let files = |of: &str| self.folder.path().join(format!("{of}-certificate"));
        let own = |file: &str| certificate.map(|of| files(of).join(file)).unwrap_or_default();
        let settings = ClientSettings {
            ca: files(service).join("ca.pem"),
            certificate: own("certificate.pem"),
            key: own("key.pem"),
        };
        let config = client::Config {
            address: format!("https://localhost:{}", self.ports[service]),
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            tls: ClientTls::load(&settings).unwrap(),
            local: Local::default(),
        };
        let tokens = name.map(|name| ServiceTokens::new(&Secret::new(SECRET), name));
        Client::new(&config, Contract::souk().unwrap(), tokens).unwrap()
    }
}

async fn release(client: Client) -> Result<(), Status> {
    let request = ReleaseReservationRequest { order: OrderId::new().name() };
    ReservationServiceClient::new(client).release_reservation(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_the_compose_file_accept_only_callers_with_their_certificates() {
    let compose = Compose::read();
    compose.certificates().await;
    let admin = compose.program("user", "").args(["user", "create-admin", "--email", ADMIN.0]);
    let (status, log) = admin.env("SOUK_ADMIN_PASSWORD", ADMIN.1).run().await;
    assert!(status.success(), "{log}");
    let mut running = Vec::new();
    for service in ["user", "inventory", "order", "gateway"] {
        running.push(compose.program(service, "serving").args(compose.command(service)).start().await);
    }
    let deadline = Duration::from_secs(60);
    for service in SERVED {
        wait::until(deadline, service, async || compose.is_healthy(service).await).await;
    }
    let anyone = Rest::anonymous(&format!("http://127.0.0.1:{}", compose.ports["gateway"]));
    wait::until(deadline, "the gateway", async || anyone.get("/readyz").await.status == 200).await;

    let admin = anyone.log_in(ADMIN.0, ADMIN.1).await;
    let product = admin.product("CUP", 10).await;
    let customer = anyone.customer("ann").await;
    let placed = customer.post("/v1/orders", order("1", &[(&product, 2)], "tok_approved")).await.ok();
    assert_eq!(placed["state"], "STATE_CONFIRMED", "{placed}");

    // Even public methods require a client certificate.
    let keys =
        async |client: Client| SessionServiceClient::new(client).get_json_web_key_set(GetJsonWebKeySetRequest {}).await;
    keys(compose.client("user", Some("gateway"), None)).await.unwrap();
    assert_eq!(keys(compose.client("user", None, None)).await.unwrap_err().code(), Code::Unavailable);
    let plain = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{}", compose.ports["user"])).unwrap();
    let plain = async {
        let channel = plain.connect().await?;
        anyhow::Ok(SessionServiceClient::new(channel).get_json_web_key_set(GetJsonWebKeySetRequest {}).await?)
    };
    plain.await.unwrap_err();
    // A service can act only in its own name, although it knows the secret, and can call only methods that admit it.
    release(compose.client("inventory", Some("order"), Some("order"))).await.unwrap();
    for (certificate, name, reason) in [
        ("gateway", "order", Reason::TokenInvalid),
        ("user", "order", Reason::TokenInvalid),
        ("gateway", "gateway", Reason::AccessDenied),
    ] {
        let refused = release(compose.client("inventory", Some(certificate), Some(name))).await.unwrap_err();
        assert_eq!(Problem::from_status(&refused).reason(), reason, "{certificate} as {name}: {refused:?}");
    }

    // Certificates that are created later work together with those in use.
    compose.certificates().await;
    keys(compose.client("user", Some("gateway"), None)).await.unwrap();
    let key = std::fs::metadata(compose.folder.path().join("certificates/order/key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o077, 0, "others can read it");
}
