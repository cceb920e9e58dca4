//! CancelOrder.

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
};
use souk_proto::order::v1::{CancelOrderRequest, Order as OrderMessage, Refund};

use super::{Answered, Parts, RETRY, missing, parse};
use crate::{
    domain::{CancelRefusal, Order, Saga, Wish},
    error::Error,
    reply,
    store::{Cancel, IdempotencyRecord, OrderScope},
};

impl Parts {
    pub(super) async fn cancel(
        &self,
        caller: &Caller,
        request: &CancelOrderRequest,
    ) -> Result<Answered<OrderMessage>, Problem> {
        let id = parse::order("name", &request.name)?;
        let items = parse::pieces(&request.items, |item| (item.line_number, item.quantity));
        let key = parse::key(caller, "CancelOrder", &request.request_id, request);
        if !items.is_empty() {
            if request.request_id.is_empty() {
                return Err(Problem::invalid("request_id", "must be set to cancel items"));
            }
            if let Some(record) = self.store.find_record(&key).await.map_err(Error::from)? {
                return self.cancelled_again(caller, record).await;
            }
        }
        let lease = self.sagas.lease();
        let wish = Wish { actor: &key.caller, reason: &request.reason, etag: &request.etag };
        let scope = OrderScope { id, owner: caller.grant.owner() };
        let cancel = self.store.cancel(scope, &key, &items, wish, lease, reply::encoded_adjustment).await;
        let begun = match cancel.map_err(Error::from)? {
            Cancel::NotFound => return Err(missing(caller, id)),
            Cancel::Refused(refusal, order) => return Err(refused(refusal, &order)),
            Cancel::Already(order) => return Ok(Answered::new(reply::order(&order))),
            Cancel::Known(record) => return self.cancelled_again(caller, record).await,
            Cancel::Begun(saga) => saga,
        };
        match self.finish(begun, lease, "the cancellation").await? {
            Saga::Order(order) => Ok(Answered::new(reply::order(&order))),
            Saga::Adjustment(_) => {
                let order = self.store.order(id, caller.grant.owner()).await;
                let order = order.map_err(Error::from)?.ok_or_else(|| missing(caller, id))?;
                Ok(Answered::new(reply::order(&order)))
            }
        }
    }

    /// The response to a repeated cancellation: the order as it is now.
    async fn cancelled_again(
        &self,
        caller: &Caller,
        record: IdempotencyRecord,
    ) -> Result<Answered<OrderMessage>, Problem> {
        let id = record.order;
        let Answered { replayed, .. } = Answered::<Refund>::again(record)?;
        let order = self.store.order(id, caller.grant.owner()).await;
        let order = order.map_err(Error::from)?.ok_or_else(|| missing(caller, id))?;
        Ok(Answered { message: reply::order(&order), replayed })
    }
}

fn refused(refusal: CancelRefusal, order: &Order) -> Problem {
    let name = order.id.name();
    match refusal {
        CancelRefusal::Faults(faults) => parse::faults(faults),
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
        CancelRefusal::Shipped => {
            let message = "pieces of the order were shipped: cancel items that were not, or take them back";
            Problem::new(Reason::OrderShipped, message).violation("ORDER_SHIPPED", name, "must have no shipment")
        }
    }
}
