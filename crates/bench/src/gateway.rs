//! A read of a product: direct gRPC, REST through the gateway, and REST through Envoy's transcoder. All use the same
//! inventory service.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};
use souk_proto::inventory::v1::GetProductRequest;
use souk_testkit::{
    process::{Process, Program},
    servers::free_port,
};
use tempfile::TempDir;

use crate::{
    Rounds,
    load::{self, Call, Target},
    process::Watch,
    report::{Figures, Goal, Report},
    shop::{Shop, text},
};

const DIRECT: &str = "direct gRPC";
const SOUK: &str = "souk, REST";
const CACHED: &str = "souk, REST, cached";
const ENVOY: &str = "Envoy, REST";

const WARM: Duration = Duration::from_millis(500);

/// A server under test, and how it is called.
struct Contestant {
    name: &'static str,
    target: Target,
    /// The process ids of proxies between client and service.
    proxies: Vec<u32>,
}

/// Runs the case `gateway`.
pub async fn run(rounds: &Rounds, envoy: &str) -> Result<()> {
    let souk = rounds.souk()?;
    let folder = tempfile::tempdir()?;
    let product = seed(&souk, folder.path()).await?;
    let ports: Vec<u16> = (0..5).map(|_| free_port()).collect::<Result<_, _>>()?;
    let [user, inventory, plain, caching, front] = ports.as_slice() else { anyhow::bail!("no ports") };

    let _user = service(&souk, folder.path(), "user", *user, &[]).start().await;
    let address = |port: &u16| format!("http://127.0.0.1:{port}");
    let service_of = |name: &str, port: u16, more: &[(&str, &str)]| {
        let program = service(&souk, folder.path(), name, port, more);
        let program = program.env("SOUK_INVENTORY__CLIENTS__USER__ADDRESS", address(user));
        // No order service runs. The gateway never calls this address.
        let backends = [("USER", user), ("INVENTORY", inventory), ("ORDER", user)];
        backends.into_iter().fold(program, |program, (name, port)| {
            program.env(format!("SOUK_GATEWAY__BACKENDS__SOUK__{name}"), address(port))
        })
    };
    let service_process = service_of("inventory", *inventory, &[]).start().await;
    // No rate limits, because one client sends all the load, and no access log, because Envoy writes none either.
    let bare = [("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false"), ("SOUK_GATEWAY__ACCESS_LOG", "false")];
    let no_cache = [bare[0], bare[1], ("SOUK_GATEWAY__CACHE__ENABLED", "false")];
    let gateway = service_of("gateway", *plain, &no_cache).start().await;
    let caching_gateway = service_of("gateway", *caching, &bare).start().await;
    let front_process = match envoy {
        "none" => None,
        envoy => Some(start_envoy(envoy, &folder, *front, *inventory).await?),
    };

    let message: Bytes = GetProductRequest { name: product.clone() }.encode_to_vec().into();
    let direct = Call::Grpc("/souk.inventory.v1.ProductService/GetProduct", Arc::new(move || message.clone()));
    let direct = same(*inventory, direct).await?;
    let path = format!("/v1/{product}");
    let rest = async |port: &u16| {
        let path = path.clone();
        same(*port, Call::Get(Arc::new(move || path.clone()))).await
    };
    let mut contestants = vec![
        Contestant { name: DIRECT, target: direct, proxies: vec![] },
        Contestant { name: SOUK, target: rest(plain).await?, proxies: vec![gateway.pid()] },
        Contestant { name: CACHED, target: rest(caching).await?, proxies: vec![caching_gateway.pid()] },
    ];
    if let Some(process) = &front_process {
        contestants.push(Contestant { name: ENVOY, target: rest(front).await?, proxies: vec![process.pid()] });
        same_answer(&contestants).await?;
    }

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        for contestant in &contestants {
            let figures = turn(rounds, contestant, service_process.pid()).await.with_context(|| contestant.name)?;
            report.add(contestant.name, figures);
        }
        report.show_round();
    }
    let rate = |f: &Figures| f.rate;
    let cpu = |f: &Figures| f.cpu_per_1000;
    let (per_cpu, per_own_cpu) = (|f: &Figures| 1.0 / f.cpu_per_1000, |f: &Figures| 1.0 / f.own_cpu_per_1000);
    let (rest, envoy) = ("REST through souk", "through Envoy");
    report.ratio(&format!("{rest} / direct gRPC: answers/s"), Goal::AtLeast(0.5), (SOUK, rate), (DIRECT, rate));
    report.ratio(&format!("{rest} / direct gRPC: CPU an answer"), Goal::Open, (SOUK, cpu), (DIRECT, cpu));
    report.ratio(&format!("{rest} / {envoy}: answers/s"), Goal::Open, (SOUK, rate), (ENVOY, rate));
    report.ratio(&format!("{rest} / {envoy}: answers per CPU-second"), Goal::Open, (SOUK, per_cpu), (ENVOY, per_cpu));
    report.ratio("the same, of the proxy's CPU alone", Goal::Open, (SOUK, per_own_cpu), (ENVOY, per_own_cpu));
    let what = format!("with souk's cache / {envoy}: answers per CPU-second");
    report.ratio(&what, Goal::Open, (CACHED, per_cpu), (ENVOY, per_cpu));
    report.ratio("with souk's cache / direct gRPC: CPU an answer", Goal::Open, (CACHED, cpu), (DIRECT, cpu));
    report.finish(rounds.json.as_deref())
}

/// A target whose responses must all be as long as the first one.
async fn same(port: u16, call: Call) -> Result<Target> {
    let target = Target { address: format!("127.0.0.1:{port}"), call, token: String::new(), check: Arc::new(|_| true) };
    let expected = load::once(&target).await?.len();
    Ok(Target { check: Arc::new(move |answer| answer.len() == expected), ..target })
}

async fn turn(rounds: &Rounds, contestant: &Contestant, service: u32) -> Result<Figures> {
    load::run(&contestant.target, rounds.connections, WARM).await?;
    let watch = Watch::begin(&contestant.proxies, &[service])?;
    let turn = load::run(&contestant.target, rounds.connections, rounds.turn()).await?;
    Ok(Figures::of(&turn, &watch.spent()?))
}

/// Fails unless all JSON responses are equal.
async fn same_answer(contestants: &[Contestant]) -> Result<()> {
    let mut first: Option<Value> = None;
    for contestant in contestants.iter().filter(|contestant| matches!(contestant.target.call, Call::Get(_))) {
        let answer: Value = serde_json::from_slice(&load::once(&contestant.target).await?)?;
        let expected = first.get_or_insert_with(|| answer.clone());
        anyhow::ensure!(*expected == answer, "{} answers {answer}, where souk answers {expected}", contestant.name);
    }
    Ok(())
}

/// One of souk's services as a separate process.
fn service(souk: &Path, folder: &Path, name: &str, port: u16, more: &[(&str, &str)]) -> Program {
    let program = Program::new(souk, "serving")
        .args([name, "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder)
        .env("SOUK_TELEMETRY__METRICS_LISTEN", "");
    more.iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// Makes a product in a new data folder; returns its resource name.
async fn seed(souk: &Path, folder: &Path) -> Result<String> {
    let program =
        Program::new(souk, "grpcurl -plaintext").args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder);
    let mut up = program.start().await;
    let shop = Shop::open(folder).await?;
    let product = json!({
        "sku": "LANTERN-1",
        "title": "White hanging heart t-light holder",
        "description": "A holder for a candle, of painted metal, to hang in a window.",
        "price": {"currencyCode": "GBP", "units": "2", "nanos": 550_000_000},
    });
    let product = shop.post("/v1/products", &product).await?;
    up.terminate(Duration::from_secs(20)).await;
    Ok(text(&product["name"]))
}

/// Starts Envoy with its gRPC-JSON transcoder in front of the inventory service, set to the gateway's JSON format.
async fn start_envoy(path: &str, folder: &TempDir, port: u16, inventory: u16) -> Result<Process> {
    let descriptors = folder.path().join("souk.binpb");
    fs::write(&descriptors, souk_proto::DESCRIPTORS)?;
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let typed = |name: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{name}"));
        config
    };
    let transcoder = typed(
        "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        json!({
            "proto_descriptor": descriptors,
            "services": ["souk.inventory.v1.ProductService"],
            "print_options": {"always_print_primitive_fields": true},
        }),
    );
    let manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "bench",
            "route_config": {"virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inventory"}}],
            }]},
            "http_filters": [
                {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
                {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", json!({}))},
            ],
        }),
    );
    let http2 =
        typed("upstreams.http.v3.HttpProtocolOptions", json!({"explicit_http_config": {"http2_protocol_options": {}}}));
    let config = json!({"static_resources": {
        "listeners": [{"address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}]}],
        "clusters": [{
            "name": "inventory",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "inventory", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(inventory)}}]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        }],
    }});
    let file = folder.path().join("envoy.json");
    fs::write(&file, config.to_string())?;
    let program = Program::new(path, "starting main dispatch loop").args(["--disable-hot-restart", "-c"]).arg(&file);
    Ok(program.start().await)
}
