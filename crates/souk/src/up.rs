//! `souk up`: runs the gateway and all services in this process.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use souk_common::{config::Settings, local, telemetry};
use souk_import::api::Credentials;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::UpArgs,
    data_dir::{DataDir, Running},
    healthcheck,
    parts::Parts,
    settings::{self, Given},
    signals,
    single::{self, Which},
};

/// The email of the first administrator of a new data folder.
pub const ADMIN: &str = "admin@souk.example";
/// How long the gateway and the services may take to become ready.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The setting with the origins whose web pages may call the gateway.
const ORIGINS: &str = "gateway.cors.allowed_origins";

/// The text that is printed after the start.
struct Screen {
    gateway: String,
    /// True if web pages of this machine may call the gateway.
    local_pages: bool,
    services: Vec<(&'static str, String)>,
    metrics: Option<String>,
    data: String,
    admin: Option<Credentials>,
    /// The file that has the administrator's password.
    credentials: PathBuf,
    ready_after: Duration,
}

/// Runs the gateway and all services until a signal to stop.
pub async fn run(args: &UpArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut given = Given::from_args(&args.data)?;
    if let Some(listen) = args.listen {
        given.set("gateway.listen", listen);
    }
    let settings = settings::load(file, &given)?;
    if settings.section::<souk_gateway::Settings>("gateway")?.contract.is_foreign() {
        let fault = "is for `souk gateway`: `souk up` serves souk's own services";
        return Err(settings.fault("gateway.contract", fault).into());
    }
    let listen: SocketAddr = settings.section("gateway.listen")?;
    souk_order::Config::from_settings(&settings)?.check_provider(&settings, "gateway.listen", listen)?;
    let data_dir = DataDir::open(settings::data_dir(&settings)?.path())?;
    let _lock = data_dir.lock()?;
    let settings = settings::with_secret(file, &mut given)?;

    // Addresses are bound first, so that a port in use is reported at once and nothing has to be undone.
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

    let delay = delay(&settings)?;
    let admin = ensure_admin(&settings, &data_dir).await?;
    let asked = signals::listen()?;
    let mut parts = Parts::new(drain(&settings)?);
    for (which, listener) in listeners.into_iter().chain([(Which::Gateway, gateway)]) {
        parts.start(which, &settings, listener)?;
    }
    let result = tokio::select! {
        ended = parts.ended() => early(ended),
        ready = ready(&gateway_url, &asked.token) => ready,
    };
    let result = match result {
        Ok(()) if !asked.token.is_cancelled() => {
            data_dir.keep_running(&Running { pid: std::process::id(), gateway: gateway_url.clone() })?;
            let screen = Screen {
                gateway: gateway_url,
                local_pages,
                services,
                metrics: guard.metrics_address().map(|address| format!("http://{address}/metrics")),
                data: place(&settings, &data_dir)?,
                admin,
                credentials: std::path::absolute(data_dir.credentials_file())?,
                ready_after: started.elapsed(),
            };
            print!("{}", text(&screen, stdout().is_terminal()));
            watch(&mut parts, &asked.token).await
        }
        other => other,
    };
    // The delay is useful only if the process was asked to stop. After a failure there are no clients to wait for.
    let delay =
        if result.is_ok() && asked.token.is_cancelled() && !asked.interrupted() { delay } else { Duration::ZERO };
    parts.stop(delay).await;
    data_dir.forget_running();
    guard.shutdown().await;
    result
}

/// Waits for the signal. It is an error if a service ends before it.
async fn watch(parts: &mut Parts, asked: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = asked.cancelled() => {
            println!("\nStopping: waiting for running requests.");
            Ok(())
        }
        ended = parts.ended() => early(ended),
    }
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
        // The gateway's certificate is for its host name, not for this address, so this does not check more than that
        // it listens.
        return Ok(());
    }
    let started = Instant::now();
    while !shutdown.is_cancelled() {
        match healthcheck::http(gateway).await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > TIMEOUT => return Err(error).context("not ready in time"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    Ok(())
}

/// How long to report not ready before requests are refused. If this is not set, it is zero if only this machine can
/// send requests.
fn delay(settings: &Settings) -> anyhow::Result<Duration> {
    let listen: SocketAddr = settings.section("gateway.listen")?;
    let pointless = listen.ip().is_loopback() && !settings.is_set("gateway.shutdown_delay");
    if pointless { Ok(Duration::ZERO) } else { single::delay(settings, Which::Gateway) }
}

fn drain(settings: &Settings) -> anyhow::Result<Duration> {
    Ok(settings.section::<souk_common::server::Config>("server")?.drain)
}

/// Creates the first administrator if there is none yet.
async fn ensure_admin(settings: &Settings, data_dir: &DataDir) -> anyhow::Result<Option<Credentials>> {
    let config = souk_user::Config::from_settings(settings)?;
    let Some(password) = souk_user::ensure_admin(&config, ADMIN).await? else { return Ok(None) };
    let credentials = Credentials { email: ADMIN.to_owned(), password };
    data_dir.keep_credentials(&credentials)?;
    Ok(Some(credentials))
}

/// Lets web pages of this machine call the gateway, if only this machine can reach it and the setting is not set. This
/// is for the web server of a developer. Returns true if pages may call.
fn let_local_pages_call(settings: &Settings, gateway: &TcpListener, given: &mut Given) -> anyhow::Result<bool> {
    let by_default = !settings.is_set(ORIGINS) && gateway.local_addr()?.ip().is_loopback();
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

/// The text after the start. It contains the administrator's password only if the output is a `terminal`: other output
/// is stored in a journal, a container's log or a file, where others may read it.
fn text(screen: &Screen, terminal: bool) -> String {
    let Screen { gateway, local_pages, services, metrics, data, admin, credentials, ready_after } = screen;
    let mut text = format!(
        "souk {} is ready after {:.2} s. Ctrl-C stops it.\n\n",
        env!("CARGO_PKG_VERSION"),
        ready_after.as_secs_f64()
    );
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("  API (REST, gRPC)  {gateway}"));
    line(format_args!("  documentation     {gateway}/docs"));
    if *local_pages {
        line(format_args!("  web pages         those of http://localhost, any port, may call ({ORIGINS})"));
    }
    for (name, url) in services {
        line(format_args!("  {name:<16}  {} (gRPC)", url.trim_start_matches("http://")));
    }
    if let Some(metrics) = metrics {
        line(format_args!("  metrics           {metrics}"));
    }
    line(format_args!("  data              {data}"));
    match admin {
        Some(admin) if terminal => {
            line(format_args!(
                "\n  Administrator     {}   password {}   (shown this once)",
                admin.email, admin.password
            ));
        }
        Some(admin) => {
            line(format_args!("\n  Administrator     {}   password in {}", admin.email, credentials.display()));
        }
        None => {}
    }
    line(format_args!("\nTry:"));
    line(format_args!("  curl {gateway}/v1/products"));
    let body = "'{\"email\":\"ann@example.com\",\"password\":\"correct horse\"}'";
    line(format_args!("  curl {gateway}/v1/users:register --json {body}"));
    line(format_args!("  grpcurl -plaintext {} list", gateway.trim_start_matches("http://")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_printed_only_to_a_terminal_and_its_file_is_always_named() {
        let screen = Screen {
            gateway: "http://127.0.0.1:8080".into(),
            local_pages: true,
            services: Vec::new(),
            metrics: None,
            data: "/data (SQLite)".into(),
            admin: Some(Credentials { email: ADMIN.into(), password: "hunter2".into() }),
            credentials: "/data/admin.json".into(),
            ready_after: Duration::ZERO,
        };
        let shown = text(&screen, true);
        assert!(shown.contains("password hunter2   (shown this once)") && !shown.contains("admin.json"), "{shown}");
        let kept = text(&screen, false);
        assert!(kept.contains("password in /data/admin.json") && !kept.contains("hunter2"), "{kept}");
        assert!(!text(&Screen { admin: None, ..screen }, true).contains("password in"));
    }
}
