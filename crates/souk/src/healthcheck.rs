//! Checks whether a gateway or a service is ready.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use souk_common::{
    client::{self, Client},
    contract::Contract,
    error::chain,
    local::Local,
    tls::ClientTls,
};
use tonic::{Response, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::settings::{self, Given};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Checks the address by its scheme. The settings are read only if they are needed.
pub async fn run(address: &str, file: Option<&Path>) -> anyhow::Result<()> {
    match address.split_once("://") {
        Some(("http", _)) => http(address).await,
        Some(("grpc", rest)) => grpc(rest).await,
        Some(("grpcs", rest)) => grpcs(rest, file).await,
        _ => bail!(
            "`{address}` must look like http://host:port (a gateway, or a process's metrics), grpc://host:port (a service) \
             or grpcs://host:port (a service with TLS)"
        ),
    }
}

/// Checks `/readyz` of a gateway.
pub async fn http(gateway: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let response = client.get(format!("{}/readyz", gateway.trim_end_matches('/'))).send().await?;
    if !response.status().is_success() {
        bail!("not ready: {}", response.text().await.unwrap_or_default());
    }
    Ok(())
}

async fn grpc(address: &str) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    let channel = endpoint.connect().await.with_context(|| format!("{address} cannot be reached"))?;
    serving(HealthClient::new(channel).check(HealthCheckRequest::default()).await)
}

/// Checks a service with TLS. The client certificate is that of `[client.tls]`.
async fn grpcs(address: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let settings = settings::load(file, &Given::default())?;
    let tls = ClientTls::load(&settings.section("client.tls")?)
        .map_err(|error| settings.fault(&format!("client.tls.{}", error.setting()), chain(&error)))?;
    let config = client::Config {
        address: format!("https://{address}"),
        timeout: TIMEOUT,
        connect_timeout: TIMEOUT,
        tls,
        local: Local::default(),
    };
    let client = Client::new(&config, Contract::souk()?, None)?;
    serving(HealthClient::new(client).check(HealthCheckRequest::default()).await)
}

fn serving(answer: Result<Response<HealthCheckResponse>, Status>) -> anyhow::Result<()> {
    match answer?.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => bail!("not ready: {}", other.as_str_name()),
    }
}
