//! The endpoint that Prometheus reads: `GET /metrics` on a port of its own, so it is never public by accident.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio_util::sync::CancellationToken;

use super::TelemetryError;

/// Takes the port. Nothing is answered before [`serve`].
pub(super) fn bind(address: &str) -> Result<std::net::TcpListener, TelemetryError> {
    let failed = |source| TelemetryError::Bind { address: address.to_owned(), source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Answers in a task until `stop`; gives the address bound.
pub(super) fn serve(
    listener: std::net::TcpListener,
    registry: Registry,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let routes = Router::new().route("/metrics", get(move || async move { text(&registry) }));
    tokio::spawn(async move {
        let server = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the metrics endpoint ended");
        }
    });
    Ok(address)
}

fn text(registry: &Registry) -> axum::response::Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
