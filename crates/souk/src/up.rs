//! `souk up`: everything in this process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use souk_common::{
    config::Settings,
    local::{self, Local},
    telemetry,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::UpArgs,
    data_dir::{Credentials, DataDir, Running},
    healthcheck,
    settings::{self, Given},
    signals,
    single::{self, Which},
};

/// The first administrator of a fresh data folder.
pub const ADMIN: &str = "admin@souk.example";
/// How long everything may take to become ready before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// The setting with the origins whose web pages may call.
const ORIGINS: &str = "gateway.cors.allowed_origins";

/// What the first screen tells.
struct Screen {
    gateway: String,
    /// Whether web pages of this machine may call.
    local_pages: bool,
    services: Vec<(&'static str, String)>,
    metrics: Option<String>,
    data: String,
    admin: Option<Credentials>,
    ready_after: Duration,
}

/// Runs everything until a signal says to stop.
pub async fn run(args: &UpArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut given = Given::from_args(&args.data)?;
    if let Some(listen) = args.listen {
        given.set("gateway.listen", listen);
    }
    let settings = settings::load(file, &given)?;
    let data_dir = DataDir::open(settings::data_dir(&settings)?.path())?;
    let _lock = data_dir.lock()?;
    let settings = settings::with_secret(file, &mut given)?;

    // Bound before anything else, so that a taken port is told at once and nothing has to be undone.
    let gateway = single::bind(&settings, Which::Gateway).await?;
    let mut listeners = Vec::new();
    for which in [Which::User, Which::Inventory, Which::Order] {
        listeners.push((which, single::bind(&settings, which).await?));
    }
    let tls = |certificate| settings.section::<String>(certificate).map(|path| !path.is_empty());
    let gateway_url = url(&gateway, tls("gateway.tls.certificate")?)?;
    let services_tls = tls("server.tls.certificate")?;
    let mut services = Vec::new();
    for (which, listener) in &listeners {
        let (name, url) = (which.name(), url(listener, services_tls)?);
        given.set_address(&settings, name, &url);
        services.push((name, url));
    }
    let local_pages = let_local_pages_call(&settings, &gateway, &mut given)?;
    let settings = settings::load(file, &given)?;
    let guard = telemetry::init(&settings.section("telemetry")?, "souk")?;

    let admin = ensure_admin(&settings, &data_dir).await?;
    let shutdown = signals::shutdown()?;
    let (mut serving, local) = (JoinSet::new(), Local::default());
    for (which, listener) in listeners.into_iter().chain([(Which::Gateway, gateway)]) {
        serving.spawn(single::serve(which, &settings, &local, listener, shutdown.child_token())?);
    }
    let result = tokio::select! {
        ended = serving.join_next() => early(ended),
        ready = ready(&gateway_url, &shutdown) => ready,
    };
    let result = match result {
        Ok(()) if !shutdown.is_cancelled() => {
            data_dir.keep_running(&Running { pid: std::process::id(), gateway: gateway_url.clone() })?;
            print(&Screen {
                gateway: gateway_url,
                local_pages,
                services,
                metrics: guard.metrics_address().map(|address| format!("http://{address}/metrics")),
                data: place(&settings, &data_dir)?,
                admin,
                ready_after: started.elapsed(),
            });
            watch(&mut serving, &shutdown).await
        }
        other => other,
    };
    shutdown.cancel();
    while let Some(ended) = serving.join_next().await {
        if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| ended) {
            tracing::error!(error = format!("{error:#}"), "while stopping");
        }
    }
    data_dir.forget_running();
    guard.shutdown().await;
    result
}

/// Waits for the signal; a service that ends before it is a fault.
async fn watch(serving: &mut JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let ended = tokio::select! {
        // First, since after the signal services end, and rightly so.
        biased;
        () = shutdown.cancelled() => None,
        ended = serving.join_next() => ended,
    };
    if shutdown.is_cancelled() {
        println!("\nStopping: letting what is under way end.");
        return Ok(());
    }
    early(ended)
}

fn early(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(Ok(()))) | None => bail!("a service ended by itself"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error).context("a service panicked"),
    }
}

async fn ready(gateway: &str, shutdown: &CancellationToken) -> anyhow::Result<()> {
    if gateway.starts_with("https:") {
        // Its certificate is for the name that clients know it by, not for this address: that it listens must do.
        return Ok(());
    }
    let started = Instant::now();
    while !shutdown.is_cancelled() {
        match healthcheck::http(gateway).await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error).context("not ready in time"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    Ok(())
}

/// Makes the first administrator where there is none yet.
async fn ensure_admin(settings: &Settings, data_dir: &DataDir) -> anyhow::Result<Option<Credentials>> {
    let config = souk_user::Config::from_settings(settings)?;
    let Some(password) = souk_user::ensure_admin(&config, ADMIN).await? else { return Ok(None) };
    let credentials = Credentials { email: ADMIN.to_owned(), password };
    data_dir.keep_credentials(&credentials)?;
    Ok(Some(credentials))
}

/// Where the gateway is for this machine alone, the pages of a developer's own server may call it, unless something is
/// set about it.
fn let_local_pages_call(settings: &Settings, gateway: &TcpListener, given: &mut Given) -> anyhow::Result<bool> {
    let by_default = settings.is_default(ORIGINS) && gateway.local_addr()?.ip().is_loopback();
    if by_default {
        given.set(ORIGINS, "loopback");
    }
    Ok(by_default)
}

fn url(listener: &TcpListener, tls: bool) -> anyhow::Result<String> {
    let address = local::reached(listener.local_addr()?);
    Ok(format!("{}://{address}", if tls { "https" } else { "http" }))
}

fn place(settings: &Settings, data_dir: &DataDir) -> anyhow::Result<String> {
    let own = settings::STORES
        .iter()
        .map(|store| settings.section::<String>(&format!("{store}.database.url")))
        .collect::<Result<Vec<_>, _>>()?;
    let folder = std::path::absolute(data_dir.path())?;
    Ok(match own.iter().all(String::is_empty) {
        true => format!("{} (SQLite)", folder.display()),
        false => format!("the configured databases; keys in {}", folder.display()),
    })
}

fn print(screen: &Screen) {
    let Screen { gateway, local_pages, services, metrics, data, admin, ready_after } = screen;
    println!(
        "souk {} is ready after {:.2} s. Ctrl-C stops it.\n",
        env!("CARGO_PKG_VERSION"),
        ready_after.as_secs_f64()
    );
    println!("  API (REST, gRPC)  {gateway}");
    println!("  documentation     {gateway}/docs");
    if *local_pages {
        println!("  web pages         those of http://localhost, any port, may call ({ORIGINS})");
    }
    for (name, url) in services {
        println!("  {name:<16}  {} (gRPC)", url.trim_start_matches("http://"));
    }
    if let Some(metrics) = metrics {
        println!("  metrics           {metrics}");
    }
    println!("  data              {data}");
    if let Some(admin) = admin {
        println!("\n  Administrator     {}   password {}   (shown this once)", admin.email, admin.password);
    }
    println!("\nTry:");
    println!("  curl {gateway}/v1/products");
    println!(
        "  curl {gateway}/v1/users:register --json '{{\"email\":\"ann@example.com\",\"password\":\"correct horse\"}}'"
    );
    println!("  grpcurl -plaintext {} list", gateway.trim_start_matches("http://"));
}
