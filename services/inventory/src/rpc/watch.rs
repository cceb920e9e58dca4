//! WatchStock and WatchEvents.

use std::{collections::HashSet, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use souk_common::error::Problem;
use souk_proto::{
    common::v1::WatchEventsRequest,
    inventory::v1::{WatchStockRequest, WatchStockResponse, event_service_server::EventService},
};
use souk_store::events::{Begin, Event, Log, Responses, Step};
use tonic::{Request, Response, Status};

use super::Rpc;

/// The response stream of `WatchStock`.
pub(crate) type Changes = Pin<Box<dyn Stream<Item = Result<WatchStockResponse, Status>> + Send>>;

pub(super) async fn stock(log: &Log, request: WatchStockRequest) -> Result<Changes, Problem> {
    let products: HashSet<String> = request.products.into_iter().collect();
    let pick = move |event: Arc<Event>| {
        let wanted = event.kind.starts_with("stock.") && (products.is_empty() || products.contains(&event.subject));
        wanted.then(|| WatchStockResponse {
            event_type: event.kind.clone(),
            event_time: Some(event.timestamp()),
            level: event.read(),
            low_stock: event.read(),
            ..WatchStockResponse::default()
        })
    };
    let steps = log.watch(Begin::Cursor(&request.cursor), None, pick).await?;
    let response =
        |Step { cursor, found }: Step<WatchStockResponse>| WatchStockResponse { cursor, ..found.unwrap_or_default() };
    Ok(Box::pin(steps.map(move |step| step.map(response))))
}

#[tonic::async_trait]
impl EventService for Rpc {
    type WatchEventsStream = Responses;

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Result<Response<Responses>, Status> {
        Ok(Response::new(self.log.respond(request.into_inner()).await?))
    }
}
