//! ReturnOrderItems.

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::OrderId,
};
use souk_proto::order::v1::{Return as ReturnMessage, ReturnOrderItemsRequest};

use super::{Answered, Parts, RETRY, missing, parse};
use crate::{
    domain::{ReturnLine, ReturnRefusal, Saga},
    error::Error,
    reply,
    store::{BeginReturn, ReturnWish},
};

impl Parts {
    pub(super) async fn take_back(
        &self,
        caller: &Caller,
        request: ReturnOrderItemsRequest,
    ) -> Result<Answered<ReturnMessage>, Problem> {
        let id = parse::order("name", &request.name)?;
        let key = parse::key(caller, "ReturnOrderItems", &request.request_id, &request);
        if let Some(memory) = self.store.recall(&key).await.map_err(Error::from)? {
            return Answered::again(memory);
        }
        parse::text("reason", &request.reason)?;
        let wish = ReturnWish {
            order: id,
            items: request
                .items
                .iter()
                .map(|item| ReturnLine { number: item.line_number, quantity: item.quantity })
                .collect(),
            actor: key.caller.clone(),
            reason: request.reason,
            time: parse::past("return_time", request.return_time)?,
        };
        let lease = self.sagas.lease();
        let begun = self.store.begin_return(&key, &wish, lease, reply::encoded_return).await;
        let begun = match begun.map_err(Error::from)? {
            BeginReturn::NotFound => return Err(missing(caller, id)),
            BeginReturn::Known(memory) => return Answered::again(memory),
            BeginReturn::Refused(refusal) => return Err(refused(refusal, id)),
            BeginReturn::Begun(back) => Saga::Return(back),
        };
        match self.finish(begun, lease, "the return").await? {
            Saga::Return(back) => Ok(Answered::new(reply::back(&back))),
            Saga::Order(_) => Err(Problem::internal()),
        }
    }
}

fn refused(refusal: ReturnRefusal, order: OrderId) -> Problem {
    match refusal {
        ReturnRefusal::Faults(faults) => parse::faults(faults),
        ReturnRefusal::Busy => Problem::new(Reason::RequestInProgress, "the order is being placed: try again")
            .retry_after(RETRY)
            .metadata("order", order.name()),
        ReturnRefusal::State(state) => {
            Problem::new(Reason::StateConflict, "goods come back from confirmed orders alone").violation(
                "ORDER_STATE",
                order.name(),
                format!("must be STATE_CONFIRMED, but is STATE_{}", state.code()),
            )
        }
    }
}
