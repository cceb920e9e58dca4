//! Reservations of stock for orders.

use std::error::Error as _;

use chrono::TimeDelta;
use futures::future::try_join_all;
use souk_common::{
    auth::Caller,
    error::Problem,
    ids::{OrderId, ProductId, ReservationId},
};
use souk_proto::inventory::v1::{
    BatchUpdateReservationsRequest, BatchUpdateReservationsResponse, CommitReservationRequest, GetReservationRequest,
    ReleaseReservationRequest, Reservation as ReservationMessage, ReservationItem, ReserveRequest,
    ReturnReservationRequest,
    batch_update_reservations_request::change::Change,
    batch_update_reservations_response::{Result as ResultMessage, result},
    reservation_service_server::ReservationService,
};
use souk_store::coalesce::BatchError;
use tonic::{Request, Response, Status};

use super::{Rpc, convert, invalid, request_key};
use crate::{
    domain::{
        command::{Action, Refusal, Reply},
        reservation::{Items, Reservation, sum},
    },
    error::Error,
};

#[tonic::async_trait]
impl ReservationService for Rpc {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        self.held(&caller, reserve(request.get_ref())?).await
    }

    async fn commit_reservation(
        &self,
        request: Request<CommitReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        self.held(&caller, commit(request.get_ref())?).await
    }

    async fn release_reservation(
        &self,
        request: Request<ReleaseReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        self.held(&caller, release(request.get_ref())?).await
    }

    async fn return_reservation(
        &self,
        request: Request<ReturnReservationRequest>,
    ) -> Result<Response<ReservationMessage>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let order = order(&request.order)?;
        let items = items(&request.items)?;
        let key = request_key(&caller, "ReturnReservation", &request.request_id, &request);
        self.held(&caller, Action::Return { order, key, items }).await
    }

    async fn batch_update_reservations(
        &self,
        request: Request<BatchUpdateReservationsRequest>,
    ) -> Result<Response<BatchUpdateReservationsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let actions = request.into_inner().changes.into_iter().map(|change| match change.change {
            Some(Change::Reserve(request)) => reserve(&request),
            Some(Change::Commit(request)) => commit(&request),
            Some(Change::Release(request)) => release(&request),
            None => Err(Problem::invalid("changes", "must each say what to do")),
        });
        let actions = actions.collect::<Result<Vec<_>, _>>()?;
        // All changes are submitted at once, so they usually share a commit.
        let results = try_join_all(actions.into_iter().map(|action| self.result(&caller, action))).await?;
        Ok(Response::new(BatchUpdateReservationsResponse { results }))
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
    /// Changes a reservation.
    async fn held(&self, caller: &Caller, action: Action) -> Result<Response<ReservationMessage>, Status> {
        Ok(Response::new(convert::reservation(self.reservation(caller, action).await?)))
    }

    /// Changes a reservation, and returns a refusal as the result of this change. A failure that affects all changes
    /// fails the call; the caller then retries on another replica.
    async fn result(&self, caller: &Caller, action: Action) -> Result<ResultMessage, Error> {
        let mut shortages = Vec::new();
        let result = match self.reservation(caller, action).await {
            Ok(reservation) => result::Result::State(convert::reservation_state(reservation.state).into()),
            Err(error) if error.strikes_all() || matches!(error, Error::ShuttingDown) => return Err(error),
            Err(error) => {
                shortages.extend(error.shortages().iter().map(convert::shortage));
                let problem = Problem::from(error);
                if problem.is_fault() {
                    tracing::error!(cause = problem.source(), "reservation change failed");
                }
                result::Result::Error(problem.into())
            }
        };
        Ok(ResultMessage { result: Some(result), shortages })
    }

    async fn reservation(&self, caller: &Caller, action: Action) -> Result<Reservation, Error> {
        match self.change(caller, action).await? {
            Reply::Reservation(reservation) => Ok(reservation),
            Reply::Levels(_) => Err(Error::Lost),
        }
    }
}

fn reserve(request: &ReserveRequest) -> Result<Action, Problem> {
    let (order, items) = (order(&request.order)?, items(&request.items)?);
    let ttl = request.ttl.unwrap_or_default();
    let nanos = u32::try_from(ttl.nanos).unwrap_or_default();
    let ttl =
        TimeDelta::new(ttl.seconds, nanos).ok_or_else(|| Problem::invalid("ttl", "must be from 1 second to 7 days"))?;
    Ok(Action::Reserve { order, items, ttl })
}

fn commit(request: &CommitReservationRequest) -> Result<Action, Problem> {
    Ok(Action::Commit { order: order(&request.order)? })
}

fn release(request: &ReleaseReservationRequest) -> Result<Action, Problem> {
    Ok(Action::Release { order: order(&request.order)? })
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
