//! The operations endpoint of a process: `GET /metrics` for Prometheus, `/livez` and `/readyz` for an orchestrator. It
//! has its own port, so that it is never public by accident and answers even if the process is busy.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{TelemetryError, probes};

/// The maximum number of connections. Further ones are closed.
const MOST: usize = 64;
/// The timeout of a request.
const LIMIT: Duration = Duration::from_secs(10);
/// The pause after the system ran out of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the port. Requests are not answered before [`serve`].
pub(super) fn bind(address: &str) -> Result<std::net::TcpListener, TelemetryError> {
    let failed = |source| TelemetryError::Bind { address: address.to_owned(), source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Answers requests in a task until `stop`. Returns the bound address.
pub(super) fn serve(
    listener: std::net::TcpListener,
    registry: Registry,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(move || async move { text(&registry) }))
        .route("/livez", get(async || answer(StatusCode::OK, &json!({"alive": true}))))
        .route("/readyz", get(ready));
    tokio::spawn(stop.run_until_cancelled_owned(accept(listener, routes)));
    Ok(address)
}

/// Accepts connections. Each serves one request with a short timeout, so that no client occupies a connection for long.
async fn accept(listener: tokio::net::TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept connections for metrics or probes");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        tokio::spawn(async move {
            // A client that disconnects or is slow is not an error of this process.
            let _ = tokio::time::timeout(LIMIT, connection).await;
            drop(place);
        });
    }
}

async fn ready() -> Response {
    let (ready, report) = probes::report().await;
    answer(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, format!("{body:#}\n")).into_response()
}

fn text(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
