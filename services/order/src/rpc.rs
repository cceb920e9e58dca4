//! The controller: the generated trait. Each RPC is one short function: parse, act, reply.

mod adjustments;
pub(crate) mod convert;
mod orders;
mod payments;
mod sagas;
mod shipments;
mod timeline;
mod watch;
mod webhooks;

use std::{future::Future, sync::Arc, time::Duration};

use prost::Message;
use souk_common::{
    auth::Caller,
    context::RequestContext,
    error::{Problem, Reason},
    ids::OrderId,
};
use souk_proto::order::v1::{
    AddOrderNoteRequest, CancelOrderRequest, CreateShipmentRequest, GetOrderRequest, GetShipmentRequest,
    ListOrdersRequest, ListOrdersResponse, ListRefundsRequest, ListRefundsResponse, ListShipmentsRequest,
    ListShipmentsResponse, ListTimelineEntriesRequest, ListTimelineEntriesResponse, Order, PlaceOrderRequest, Refund,
    RefundOrderRequest, Return, ReturnOrderItemsRequest, Shipment, TimelineEntry, WatchOrdersRequest,
    order_service_server::OrderService,
};
use souk_store::events::Log;
use tonic::{Request, Response, Status, metadata::MetadataValue};
use tracing::Instrument;

pub(crate) use self::webhooks::WebhookRpc;
use crate::{
    clients::Inventory,
    domain::{Refusal, Saga},
    saga::runner::{End, Sagas},
    store::{IdempotencyRecord, Lease, Store},
};

/// The header of a response that was sent before.
const REPLAYED: &str = "idempotent-replayed";
/// The pause before a client should retry a request that is still running.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time that a caller waits for a saga.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The part of a caller's deadline that is reserved for the response: a fifth, but at most this.
const WAY_BACK: Duration = Duration::from_secs(1);

/// The service's generated trait. A clone is another handle.
#[derive(Clone)]
pub struct Rpc(Arc<Parts>);

struct Parts {
    store: Store,
    sagas: Sagas,
    inventory: Inventory,
    log: Log,
}

impl Rpc {
    /// Uses this store and its event log, and runs sagas with this runner.
    #[must_use]
    pub fn new(store: Store, sagas: Sagas, inventory: Inventory, log: Log) -> Self {
        Self(Arc::new(Parts { store, sagas, inventory, log }))
    }

    /// Runs work that records a saga in a task of its own. If it ran in the caller's task, a disconnect at that moment
    /// could leave an order that nobody runs until its lease expires.
    async fn spawn_detached<T, W, F>(&self, work: W) -> Result<T, Problem>
    where
        W: FnOnce(Arc<Parts>) -> F,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
        T: Send + 'static,
    {
        let context = RequestContext::current().unwrap_or_else(RequestContext::background);
        let work = context.scope(work(self.0.clone())).in_current_span();
        self.0.sagas.track(work).await.unwrap_or_else(|error| Err(Problem::internal().caused_by(error)))
    }
}

#[tonic::async_trait]
impl OrderService for Rpc {
    async fn place_order(&self, request: Request<PlaceOrderRequest>) -> Result<Response<Order>, Status> {
        let caller = Caller::of(&request)?;
        let placed = self.spawn_detached(|parts| async move { parts.place(&caller, request.into_inner()).await });
        Ok(placed.await?.response())
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        let caller = Caller::of(&request)?;
        let id = convert::order_id("name", &request.get_ref().name)?;
        Ok(Response::new(self.0.order(&caller, id).await?))
    }

    async fn list_orders(&self, request: Request<ListOrdersRequest>) -> Result<Response<ListOrdersResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.list(&caller, &request.into_inner()).await?))
    }

    async fn cancel_order(&self, request: Request<CancelOrderRequest>) -> Result<Response<Order>, Status> {
        let caller = Caller::of(&request)?;
        let cancelled = self.spawn_detached(|parts| async move { parts.cancel(&caller, &request.into_inner()).await });
        Ok(cancelled.await?.response())
    }

    async fn return_order_items(&self, request: Request<ReturnOrderItemsRequest>) -> Result<Response<Return>, Status> {
        let caller = Caller::of(&request)?;
        let back = self.spawn_detached(|parts| async move { parts.take_back(&caller, request.into_inner()).await });
        Ok(back.await?.response())
    }

    async fn refund_order(&self, request: Request<RefundOrderRequest>) -> Result<Response<Refund>, Status> {
        let caller = Caller::of(&request)?;
        let refund = self.spawn_detached(|parts| async move { parts.refund(&caller, request.into_inner()).await });
        Ok(refund.await?.response())
    }

    async fn list_refunds(
        &self,
        request: Request<ListRefundsRequest>,
    ) -> Result<Response<ListRefundsResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.refunds(&caller, &request.into_inner()).await?))
    }

    async fn create_shipment(&self, request: Request<CreateShipmentRequest>) -> Result<Response<Shipment>, Status> {
        let caller = Caller::of(&request)?;
        Ok(self.0.ship(&caller, request.into_inner()).await?.response())
    }

    async fn get_shipment(&self, request: Request<GetShipmentRequest>) -> Result<Response<Shipment>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.shipment(&caller, &request.into_inner()).await?))
    }

    async fn list_shipments(
        &self,
        request: Request<ListShipmentsRequest>,
    ) -> Result<Response<ListShipmentsResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.shipments(&caller, &request.into_inner()).await?))
    }

    async fn add_order_note(&self, request: Request<AddOrderNoteRequest>) -> Result<Response<TimelineEntry>, Status> {
        let caller = Caller::of(&request)?;
        Ok(self.0.note(&caller, &request.into_inner()).await?.response())
    }

    async fn list_timeline_entries(
        &self,
        request: Request<ListTimelineEntriesRequest>,
    ) -> Result<Response<ListTimelineEntriesResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.0.timeline(&caller, &request.into_inner()).await?))
    }

    type WatchOrdersStream = watch::Changes;

    async fn watch_orders(&self, request: Request<WatchOrdersRequest>) -> Result<Response<watch::Changes>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(watch::orders(&self.0.log, &caller, request.get_ref()).await?))
    }
}

/// A response, and whether it was sent before.
struct Answered<T> {
    message: T,
    replayed: bool,
}

impl<T> Answered<T> {
    fn new(message: T) -> Self {
        Self { message, replayed: false }
    }

    fn response(self) -> Response<T> {
        let mut response = Response::new(self.message);
        if self.replayed {
            let yes = MetadataValue::from_static("true");
            response.metadata_mut().insert(REPLAYED, yes);
        }
        response
    }
}

impl<T: Message + Default> Answered<T> {
    /// The response of an idempotency record.
    fn again(record: IdempotencyRecord) -> Result<Self, Problem> {
        let order = record.order.name();
        if !record.same_request {
            let message = "this request_id was used for another request: choose a new one for a new request, \
                 or repeat the first request unchanged";
            return Err(Problem::new(Reason::IdempotencyKeyReused, message)
                .field("request_id", "must be new for a new request")
                .metadata("order", order));
        }
        let Some(response) = record.response else {
            let message = "the first request with this request_id is still running: try again";
            return Err(Problem::new(Reason::RequestInProgress, message).retry_after(RETRY).metadata("order", order));
        };
        let message = T::decode(response.as_slice()).map_err(|error| Problem::internal().caused_by(error))?;
        Ok(Self { message, replayed: true })
    }
}

impl Parts {
    /// Runs a newly recorded saga until it ends or until the caller's deadline. The saga continues after the caller
    /// leaves: in a task of its own and, after a failure, in the saga job.
    async fn finish(&self, saga: Saga, lease: Lease, what: &str) -> Result<Saga, Problem> {
        let order = saga.order().name();
        let context = RequestContext::current().unwrap_or_else(RequestContext::background);
        let remaining = context.remaining(TIMEOUT);
        let wait = remaining - WAY_BACK.min(remaining / 5);
        let sagas = self.sagas.clone();
        let run = context.detached().scope(async move { sagas.run(saga, lease).await }).in_current_span();
        match within(wait, self.sagas.track(run)).await {
            Some(Ok(End::Final(saga))) => Ok(saga),
            Some(Ok(End::Later)) | None => {
                let message =
                    format!("{what} was recorded and continues by itself, but is not done yet: try again later");
                Err(Problem::new(Reason::ServiceUnavailable, message).retry_after(RETRY).metadata("order", order))
            }
            Some(Ok(End::LeaseLost)) => {
                Err(Problem::new(Reason::RequestInProgress, format!("{what} is still running: try again"))
                    .retry_after(RETRY)
                    .metadata("order", order))
            }
            Some(Err(error)) => Err(Problem::internal().caused_by(error).metadata("order", order)),
        }
    }
}

async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(limit, work).await.ok()
}

/// The error for a refused change of an order.
fn refused(refusal: Refusal, order: OrderId, what: &str) -> Problem {
    match refusal {
        Refusal::Faults(faults) => convert::faults(faults),
        Refusal::Busy => Problem::new(Reason::RequestInProgress, "the order is being placed or changed: try again")
            .retry_after(RETRY)
            .metadata("order", order.name()),
        Refusal::State(state) => Problem::new(Reason::StateConflict, format!("only confirmed orders {what}"))
            .violation("ORDER_STATE", order.name(), format!("must be STATE_CONFIRMED, but is STATE_{}", state.code())),
    }
}

/// The error for an order that does not exist or belongs to another customer. Customers cannot distinguish the two.
fn missing(caller: &Caller, id: OrderId) -> Problem {
    match caller.grant.owner() {
        Some(_) => Problem::access_denied(id.name()),
        None => Problem::not_found(id.name()),
    }
}
