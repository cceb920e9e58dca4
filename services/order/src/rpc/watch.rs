//! WatchOrders and WatchEvents.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use souk_common::{
    auth::Caller,
    error::Problem,
    events::{Event, Log, Responses, Step},
};
use souk_proto::{
    common::v1::WatchEventsRequest,
    order::v1::{Order, WatchOrdersRequest, WatchOrdersResponse, event_service_server::EventService},
};
use tonic::{Request, Response, Status};

use super::{Rpc, list::customer};

/// What `WatchOrders` answers with.
pub(crate) type Changes = Pin<Box<dyn Stream<Item = Result<WatchOrdersResponse, Status>> + Send>>;

pub(super) async fn orders(log: &Log, caller: &Caller, request: &WatchOrdersRequest) -> Result<Changes, Problem> {
    let customer = customer(caller, &request.customer)?.map(|customer| customer.name());
    let wanted = move |event: &Event| match &customer {
        Some(customer) => event.read::<Order>().is_some_and(|order| order.customer == *customer),
        None => event.subject.starts_with("orders/"),
    };
    let steps = log.watch(&request.cursor, wanted).await?;
    let response = |Step { position, event }: Step| WatchOrdersResponse {
        cursor: position.to_string(),
        event_type: event.as_ref().map(|event| event.kind.clone()).unwrap_or_default(),
        event_time: event.as_ref().map(|event| event.timestamp()),
        order: event.and_then(|event| event.read()),
    };
    Ok(Box::pin(steps.map(move |step| step.map(response))))
}

#[tonic::async_trait]
impl EventService for Rpc {
    type WatchEventsStream = Responses;

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Result<Response<Responses>, Status> {
        Ok(Response::new(self.0.log.respond(request.into_inner()).await?))
    }
}
