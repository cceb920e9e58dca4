//! Asks whether a gateway or a service is ready.

use std::time::Duration;

use anyhow::{Context, bail};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the address, by its scheme.
pub async fn run(address: &str) -> anyhow::Result<()> {
    match address.split_once("://") {
        Some(("http", _)) => http(address).await,
        Some(("grpc", rest)) => grpc(rest).await,
        _ => bail!("`{address}` must look like http://host:port (a gateway, or a process's metrics) or grpc://host:port (a service)"),
    }
}

/// Asks a gateway's `/readyz`.
pub async fn http(gateway: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let response = client.get(format!("{}/readyz", gateway.trim_end_matches('/'))).send().await?;
    if !response.status().is_success() {
        bail!("not ready: {}", response.text().await.unwrap_or_default());
    }
    Ok(())
}

async fn grpc(address: &str) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(PATIENCE).timeout(PATIENCE);
    let channel = endpoint.connect().await.with_context(|| format!("{address} cannot be reached"))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?.into_inner();
    match answer.status() {
        ServingStatus::Serving => Ok(()),
        other => bail!("not ready: {}", other.as_str_name()),
    }
}
