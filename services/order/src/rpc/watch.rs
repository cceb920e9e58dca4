//! WatchOrders, WatchEvents and dead letters.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use souk_common::{auth::Caller, error::Problem};
use souk_proto::{
    common::v1::{
        DeadLetter, DeleteDeadLetterRequest, DeleteDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse,
        RequeueDeadLetterRequest, WatchEventsRequest,
    },
    order::v1::{Order, WatchOrdersRequest, WatchOrdersResponse, event_service_server::EventService},
};
use souk_store::events::{Begin, DeadLetters, Event, Log, Responses, Step};
use tonic::{Request, Response, Status};

use super::{Rpc, orders::listed_customer};

/// The response stream of `WatchOrders`.
pub(crate) type Changes = Pin<Box<dyn Stream<Item = Result<WatchOrdersResponse, Status>> + Send>>;

pub(super) async fn orders(log: &Log, caller: &Caller, request: &WatchOrdersRequest) -> Result<Changes, Problem> {
    let customer = listed_customer(caller, &request.customer)?;
    let pick = |event: Arc<Event>| {
        Some(WatchOrdersResponse {
            event_type: event.kind.clone(),
            event_time: Some(event.timestamp()),
            order: Some(event.read::<Order>()?),
            ..WatchOrdersResponse::default()
        })
    };
    let steps = log.watch(Begin::Cursor(&request.cursor), customer, pick).await?;
    let response =
        |Step { cursor, found }: Step<WatchOrdersResponse>| WatchOrdersResponse { cursor, ..found.unwrap_or_default() };
    Ok(Box::pin(steps.map(move |step| step.map(response))))
}

#[tonic::async_trait]
impl EventService for Rpc {
    type WatchEventsStream = Responses;

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Result<Response<Responses>, Status> {
        Ok(Response::new(self.0.log.respond(request.into_inner()).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        Ok(Response::new(DeadLetters::of(&self.0.log).respond_list(request.into_inner()).await?))
    }

    async fn requeue_dead_letter(
        &self,
        request: Request<RequeueDeadLetterRequest>,
    ) -> Result<Response<DeadLetter>, Status> {
        Ok(Response::new(DeadLetters::of(&self.0.log).respond_requeue(request.into_inner()).await?))
    }

    async fn delete_dead_letter(
        &self,
        request: Request<DeleteDeadLetterRequest>,
    ) -> Result<Response<DeleteDeadLetterResponse>, Status> {
        Ok(Response::new(DeadLetters::of(&self.0.log).respond_delete(request.into_inner()).await?))
    }
}
