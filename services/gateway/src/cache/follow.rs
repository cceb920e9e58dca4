//! Follows the services' event logs, so that no cached response is served after a change by any client.
//!
//! A method that takes `souk.common.v1.WatchEventsRequest` is its package's event log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk_common::{
    client::Client,
    contract::{Contract, Method},
    error::{OrProblem, Problem, Reason, chain},
};
use souk_proto::common::v1::{WatchEventsRequest, WatchEventsResponse};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, client::Grpc};

use super::Cache;

const REQUEST: &str = "souk.common.v1.WatchEventsRequest";
/// The pause before the next attempt to follow a log.
const RETRY: Duration = Duration::from_secs(1);

/// The event log of a package with cached responses.
pub struct Log {
    package: String,
    path: http::uri::PathAndQuery,
    /// Full names of the messages whose changes matter to the cache.
    messages: Vec<String>,
    client: Client,
}

impl Log {
    /// The event logs that matter to this cache. `client` returns a client that calls a method's service with the
    /// gateway's own token.
    pub fn all(contract: &Contract, cache: &Cache, client: impl Fn(&Method) -> Option<Client>) -> Vec<Self> {
        let logs = contract.methods().filter(|method| method.descriptor.input().full_name() == REQUEST);
        logs.filter_map(|method| {
            let package = method.descriptor.parent_service().package_name().to_owned();
            let messages = cache.shown(&package);
            let path = method.path.parse().ok().filter(|_| !messages.is_empty())?;
            Some(Self { package, path, messages, client: client(method)? })
        })
        .collect()
    }

    /// Follows the log until `stop`, and updates the cache.
    pub async fn follow(self, cache: Arc<Cache>, stop: CancellationToken) {
        let mut cursor = String::new();
        while !stop.is_cancelled() {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.read(&cache, &mut cursor) => ended,
                () = stop.cancelled() => return,
            };
            if let Err(status) = ended {
                let expired = Problem::from_status(&status).reason() == Reason::TokenExpired;
                if expired && began.elapsed() > RETRY {
                    // The stream ended because its token expired. The next stream opens with a newer token.
                    continue;
                }
                if matches!(status.code(), Code::OutOfRange | Code::InvalidArgument) {
                    // The events after the cursor are deleted, or the log was replaced: anything may have changed.
                    cursor.clear();
                    cache.forget(&self.package);
                }
                let (package, error) = (&self.package, chain(&status));
                if status.code() == Code::Unavailable {
                    // The service is starting, stopping or unreachable. Other code logs that.
                    tracing::debug!(package, error, "event log stream ended");
                } else {
                    tracing::warn!(package, error, "cannot follow an event log: cached responses may be stale");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn read(&self, cache: &Cache, cursor: &mut String) -> Result<(), Status> {
        let data_types = self.messages.clone();
        let request = WatchEventsRequest { cursor: cursor.clone(), data_types, ..WatchEventsRequest::default() };
        let mut client = Grpc::new(self.client.clone());
        client.ready().await.or_unavailable("a service")?;
        let codec = tonic_prost::ProstCodec::<WatchEventsRequest, WatchEventsResponse>::default();
        let request = tonic::Request::new(request);
        let mut stream = client.server_streaming(request, self.path.clone(), codec).await?.into_inner();
        while let Some(response) = stream.message().await? {
            if let Some(event) = response.event {
                let message = event.data.as_ref().and_then(|data| data.type_url.rsplit('/').next());
                cache.changed(&self.package, message.unwrap_or_default(), event.position);
            } else if cursor.is_empty() {
                // Events may have been missed, so cached responses may be stale.
                cache.forget(&self.package);
            }
            *cursor = response.cursor;
        }
        Ok(())
    }
}
