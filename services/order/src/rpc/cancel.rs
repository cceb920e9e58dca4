//! CancelOrder.

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
};
use souk_proto::order::v1::{CancelOrderRequest, Order as OrderMessage};

use super::{Parts, RETRY, missing, parse};
use crate::{
    domain::{CancelRefusal, Order, Saga},
    error::Error,
    reply,
    store::Cancel,
};

impl Parts {
    pub(super) async fn cancel(&self, caller: &Caller, request: &CancelOrderRequest) -> Result<OrderMessage, Problem> {
        let id = parse::order("name", &request.name)?;
        parse::text("reason", &request.reason)?;
        let lease = self.sagas.lease();
        let actor = caller.actor();
        let wish = (actor.as_str(), request.reason.as_str(), request.etag.as_str());
        let cancel = self.store.cancel((id, caller.grant.owner()), wish, lease).await;
        let begun = match cancel.map_err(Error::from)? {
            Cancel::NotFound => return Err(missing(caller, id)),
            Cancel::Refused(refusal, order) => return Err(refused(refusal, &order)),
            Cancel::Already(order) => return Ok(reply::order(&order)),
            Cancel::Begun(order) => Saga::Order(order),
        };
        match self.finish(begun, lease, "the cancellation").await? {
            Saga::Order(order) => Ok(reply::order(&order)),
            Saga::Return(_) => Err(Problem::internal()),
        }
    }
}

fn refused(refusal: CancelRefusal, order: &Order) -> Problem {
    let name = order.id.name();
    match refusal {
        CancelRefusal::EtagMismatch => Problem::etag_mismatch().resource("souk/Order", name),
        CancelRefusal::Busy => {
            Problem::new(Reason::RequestInProgress, "the order is being placed, cancelled or returned: try again")
                .retry_after(RETRY)
                .metadata("order", name)
        }
        CancelRefusal::Rejected => Problem::new(
            Reason::StateConflict,
            "the order was rejected: there is nothing to cancel",
        )
        .violation("ORDER_STATE", name, "must be STATE_CONFIRMED, but is STATE_REJECTED"),
    }
}
