//! Adjustments of orders: returns and refunds.

use souk_common::{auth::Caller, error::Problem, ids::ReturnId, money::Money, page};
use souk_proto::order::v1::{
    ListRefundsRequest, ListRefundsResponse, Refund as RefundMessage, RefundOrderRequest, Return as ReturnMessage,
    ReturnOrderItemsRequest,
};

use super::{Answered, Parts, convert, missing, refused};
use crate::{
    domain::{Adjustment, Saga, What, Wish},
    saga::answer,
    store::{Adjusting, Begin, Key, OrderScope},
};

impl Parts {
    pub(super) async fn take_back(
        &self,
        caller: &Caller,
        request: ReturnOrderItemsRequest,
    ) -> Result<Answered<ReturnMessage>, Problem> {
        let id = convert::order_id("name", &request.name)?;
        let key = convert::key(caller, "ReturnOrderItems", &request.request_id, &request);
        if let Some(record) = self.store.find_record(&key).await? {
            return Answered::again(record);
        }
        let what = What::Return(convert::pieces(&request.items, |item| (item.line_number, item.quantity)));
        let time = convert::past("return_time", request.return_time)?;
        self.adjust(caller, &key, Adjusting { order: id, what: &what, time }, &request.reason, answer::back).await
    }

    pub(super) async fn refund(
        &self,
        caller: &Caller,
        request: RefundOrderRequest,
    ) -> Result<Answered<RefundMessage>, Problem> {
        let id = convert::order_id("name", &request.name)?;
        let key = convert::key(caller, "RefundOrder", &request.request_id, &request);
        if let Some(record) = self.store.find_record(&key).await? {
            return Answered::again(record);
        }
        let amount = request.amount.as_ref().ok_or_else(|| Problem::invalid("amount", "must be set"))?;
        let amount = Money::try_from(amount).map_err(|error| Problem::invalid("amount", error.to_string()))?;
        let what = What::Refund(amount);
        let adjusting = Adjusting { order: id, what: &what, time: None };
        self.adjust(caller, &key, adjusting, &request.reason, answer::refund).await
    }

    /// Runs an adjustment to its end.
    async fn adjust<T: prost::Message + Default>(
        &self,
        caller: &Caller,
        key: &Key,
        adjusting: Adjusting<'_>,
        reason: &str,
        reply: fn(&Adjustment) -> T,
    ) -> Result<Answered<T>, Problem> {
        let id = adjusting.order;
        let lease = self.sagas.lease();
        let wish = Wish { actor: &key.caller, reason, etag: "" };
        let begun = match self.store.adjust(key, adjusting, wish, lease, answer::encoded_adjustment).await? {
            Begin::NotFound => return Err(missing(caller, id)),
            Begin::Known(record) => return Answered::again(record),
            Begin::Refused(refusal) => return Err(refused(refusal, id, "give goods or money back")),
            Begin::Begun(adjustment) => Saga::Adjustment(adjustment),
        };
        let what = match adjusting.what {
            What::Refund(_) => "the refund",
            _ => "the return",
        };
        match self.finish(begun, lease, what).await? {
            Saga::Adjustment(adjustment) => Ok(Answered::new(reply(&adjustment))),
            Saga::Order(_) => Err(Problem::internal()),
        }
    }

    pub(super) async fn refunds(
        &self,
        caller: &Caller,
        request: &ListRefundsRequest,
    ) -> Result<ListRefundsResponse, Problem> {
        let id = convert::order_id("parent", &request.parent)?;
        let query = ("orders.refunds", id);
        let size = page::size(request.page_size);
        let after: Option<ReturnId> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let rows = self.store.adjustments(OrderScope { id, owner: caller.grant.owner() }, after, size + 1).await;
        let rows = rows?.ok_or_else(|| missing(caller, id))?;
        let message = |row| answer::refund(&row);
        let (refunds, next_page_token) = page::cut(rows, size, &query, |row: &Adjustment| row.id, message);
        Ok(ListRefundsResponse { refunds, next_page_token })
    }
}
