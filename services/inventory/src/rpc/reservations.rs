//! Holding stock for orders.

use chrono::TimeDelta;
use prost::Message as _;
use souk_common::{
    auth::Caller,
    error::Problem,
    ids::{OrderId, ProductId, ReservationId},
};
use souk_proto::inventory::v1::{
    CommitReservationRequest, GetReservationRequest, ReleaseReservationRequest, Reservation as ReservationMessage,
    ReservationItem, ReserveRequest, ReturnReservationRequest, reservation_service_server::ReservationService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, convert, invalid};
use crate::{
    domain::{
        command::{Action, Refusal, Reply, RequestKey},
        reservation::{Items, sum},
    },
    error::Error,
};

#[tonic::async_trait]
impl ReservationService for Rpc {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let order = order(&request.order)?;
        let items = items(&request.items)?;
        let ttl = request.ttl.unwrap_or_default();
        let nanos = u32::try_from(ttl.nanos).unwrap_or_default();
        let ttl = TimeDelta::new(ttl.seconds, nanos)
            .ok_or_else(|| Problem::invalid("ttl", "must be from 1 second to 7 days"))?;
        self.held(&caller, Action::Reserve { order, items, ttl }).await
    }

    async fn commit_reservation(
        &self,
        request: Request<CommitReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        let order = order(&request.get_ref().order)?;
        self.held(&caller, Action::Commit { order }).await
    }

    async fn release_reservation(
        &self,
        request: Request<ReleaseReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        let order = order(&request.get_ref().order)?;
        self.held(&caller, Action::Release { order }).await
    }

    async fn return_reservation(
        &self,
        request: Request<ReturnReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let order = order(&request.order)?;
        let items = items(&request.items)?;
        let (actor, bytes) = (caller.actor(), request.encode_to_vec());
        let key = RequestKey::new(&actor, "ReturnReservation", &request.request_id, &bytes);
        self.held(&caller, Action::Return { order, key, items }).await
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let name = &request.get_ref().name;
        let id = ReservationId::parse_name(name).map_err(invalid("name"))?;
        let order = OrderId::from_uuid(id.uuid());
        let found = self.store.reservation(order).await?;
        let found = found.ok_or(Error::Refused(Refusal::NoReservation(order)))?;
        Ok(Response::new(convert::reservation(found)))
    }
}

impl Rpc {
    /// Asks for a change of a reservation.
    async fn held(&self, caller: &Caller, action: Action) -> Result<Response<ReservationMessage>, Status> {
        match self.change(caller, action).await? {
            Reply::Reservation(reservation) => Ok(Response::new(convert::reservation(reservation))),
            Reply::Levels(_) => Err(Error::Lost.into()),
        }
    }
}

fn order(name: &str) -> Result<OrderId, Problem> {
    OrderId::parse_name(name).map_err(invalid("order"))
}

fn items(items: &[ReservationItem]) -> Result<Items, Problem> {
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let product = ProductId::parse_name(&item.product).map_err(invalid(format!("items[{index}].product")))?;
        read.push((product, item.quantity));
    }
    sum(read).ok_or_else(|| Problem::invalid("items", "must not sum up to more than 64 bits hold"))
}
