//! Runs one service in this process, as in a cluster.

use std::{convert::Infallible, future::Future, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use souk_common::{config::Settings, local::Local, server::Stop, telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{GatewayArgs, ServiceArgs},
    settings::{self, Given},
    signals,
};

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    User,
    Inventory,
    Order,
    Gateway,
}

impl Which {
    /// The name of the service in settings, metrics and tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Inventory => "inventory",
            Self::Order => "order",
            Self::Gateway => "gateway",
        }
    }
}

/// Runs a service until a signal to stop.
pub async fn run(which: Which, args: &ServiceArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let mut given = Given::from_service(which.name(), args)?;
    let settings = settings::with_secret(file, &mut given)?;
    serve_alone(which, &settings, &[]).await
}

/// Runs the gateway until a signal to stop. It may serve foreign services.
pub async fn run_gateway(args: &GatewayArgs, file: Option<&Path>) -> anyhow::Result<()> {
    let mut given = Given::from_service("gateway", &args.service)?;
    if let Some(descriptors) = &args.descriptors {
        given.set("gateway.contract.descriptors", descriptors.display());
    }
    if args.reflect {
        given.set("gateway.contract.reflection", true);
    }
    if args.public {
        given.set("gateway.contract.access", "public");
    }
    let settings = settings::load(file, &given)?;
    let settings = match settings.section::<souk_gateway::Settings>("gateway")?.contract.is_foreign() {
        true => settings::with_own_secret(settings, file, &mut given)?,
        false => settings::with_secret(file, &mut given)?,
    };
    serve_alone(Which::Gateway, &settings, &args.backend).await
}

async fn serve_alone(which: Which, settings: &Settings, backends: &[(String, String)]) -> anyhow::Result<()> {
    let held = settings::hold_data_dir(settings, &[which.name()])?;
    // Only one process may use the SQLite file.
    let _lock = held.as_ref().map(|(data_dir, _)| data_dir.lock_service(which.name())).transpose()?;
    let guard = telemetry::init(&settings.section("telemetry")?, which.name())?;
    let listener = bind(settings, which).await?;
    let address = listener.local_addr()?;
    let metrics = guard.metrics_address().map(|address| address.to_string());
    let asked = signals::listen()?;
    let (stop, shutdown) = (Stop::default(), CancellationToken::new());
    let delay = delay(settings, which)?;
    tracing::info!(service = which.name(), %address, metrics, version = env!("CARGO_PKG_VERSION"), "serving");
    let serving = serve(which, settings, backends, &Local::default(), &stop, listener, shutdown.clone())?;
    let stopping = async {
        asked.token.cancelled().await;
        let delay = if asked.interrupted() { Duration::ZERO } else { delay };
        tracing::info!(service = which.name(), ?delay, "stopping");
        stop.announce();
        tokio::time::sleep(delay).await;
        shutdown.cancel();
        std::future::pending::<Infallible>().await
    };
    // The service may fail before a signal comes.
    let result = tokio::select! {
        result = serving => result,
        never = stopping => match never {},
    };
    guard.shutdown().await;
    result
}

/// How long the service reports that it is not ready before it stops accepting requests.
pub fn delay(settings: &Settings, which: Which) -> anyhow::Result<Duration> {
    Ok(match which {
        Which::Gateway => souk_gateway::Config::from_settings(settings)?.settings.shutdown_delay,
        _ => settings.section::<souk_common::server::Config>("server")?.shutdown_delay,
    })
}

/// Binds the address in the service's section.
pub async fn bind(settings: &Settings, which: Which) -> anyhow::Result<TcpListener> {
    let key = format!("{}.listen", which.name());
    let address: SocketAddr = settings.section(&key)?;
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "{} cannot listen on {address}: is another program there? Set {key} or --listen to another address",
            which.name()
        )
    })
}

/// Checks the settings and calls the service's own `serve`. `backends` are additional backends of a gateway.
pub fn serve(
    which: Which,
    settings: &Settings,
    backends: &[(String, String)],
    local: &Local,
    stop: &Stop,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    type Serving = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
    let serving: Serving = match which {
        Which::User => {
            let mut config = souk_user::Config::from_settings(settings)?;
            (config.common.server.local, config.common.server.stop) = (local.clone(), stop.clone());
            Box::pin(async move { Ok(souk_user::serve(config, listener, shutdown).await?) })
        }
        Which::Inventory => {
            let mut config = souk_inventory::Config::from_settings(settings)?;
            (config.common.server.local, config.common.server.stop) = (local.clone(), stop.clone());
            Box::pin(async move { Ok(souk_inventory::serve(config, listener, shutdown).await?) })
        }
        Which::Order => {
            let mut config = souk_order::Config::from_settings(settings)?;
            (config.common.server.local, config.common.server.stop) = (local.clone(), stop.clone());
            Box::pin(async move { Ok(souk_order::serve(config, listener, shutdown).await?) })
        }
        Which::Gateway => {
            let mut config = souk_gateway::Config::from_settings(settings)?;
            config.settings.backends.add(backends);
            (config.common.server.local, config.common.server.stop) = (local.clone(), stop.clone());
            Box::pin(async move { Ok(souk_gateway::serve(config, listener, shutdown).await?) })
        }
    };
    Ok(async move { serving.await.with_context(|| format!("the {} service stopped", which.name())) })
}
