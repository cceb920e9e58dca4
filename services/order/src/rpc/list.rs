//! ListOrders and ListTimelineEntries.

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::UserId,
    page::{
        self, PageError,
        filter::{self, Field, Kind, Op, Term, Value},
    },
};
use souk_proto::order::v1::{
    ListOrdersRequest, ListOrdersResponse, ListTimelineEntriesRequest, ListTimelineEntriesResponse,
};

use super::{Parts, convert, missing, parse};
use crate::{
    domain::{Order, State},
    error::Error,
    reply,
    store::{Condition, OrderKey, OrderScope, Query, TimelineRow},
};

const STATES: &[&str] = &["STATE_PENDING", "STATE_CONFIRMED", "STATE_REJECTED", "STATE_CANCELLING", "STATE_CANCELLED"];

const FIELDS: &[Field] = &[
    Field::new("state", Kind::Enum(STATES)),
    Field::new("external_id", Kind::Text),
    Field::new("place_time", Kind::Time),
    Field::new("create_time", Kind::Time),
];

impl Parts {
    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &ListOrdersRequest,
    ) -> Result<ListOrdersResponse, Problem> {
        let customer = customer(caller, &request.customer)?;
        let conditions = filter::parse(&request.filter, FIELDS)
            .map_err(|error| Problem::invalid("filter", error.to_string()))?
            .into_iter()
            .map(condition)
            .collect::<Result<Vec<_>, _>>()?;
        let query = ("orders.list", customer, &request.filter);
        let size = page::size(request.page_size);
        let after: Option<OrderKey> = page::decode(&request.page_token, &query).map_err(bad_token)?;
        let wish = Query { customer, conditions, after, limit: size + 1 };
        let rows = self.store.orders(&wish).await.map_err(Error::from)?;
        let key = |order: &Order| (order.create_time, order.id);
        let (orders, next_page_token) = page::cut(rows, size, &query, key, |order| reply::order(&order));
        Ok(ListOrdersResponse { orders, next_page_token })
    }

    pub(super) async fn timeline(
        &self,
        caller: &Caller,
        request: &ListTimelineEntriesRequest,
    ) -> Result<ListTimelineEntriesResponse, Problem> {
        let id = parse::order("parent", &request.parent)?;
        let query = ("orders.timeline", id);
        let size = page::size(request.page_size);
        let after: Option<i32> = page::decode(&request.page_token, &query).map_err(bad_token)?;
        let scope = OrderScope { id, owner: caller.grant.owner() };
        let rows = self.store.timeline(scope, after.unwrap_or(0), size + 1).await;
        let rows = rows.map_err(Error::from)?.ok_or_else(|| missing(caller, id))?;
        let key = |row: &TimelineRow| row.number;
        let (timeline_entries, next_page_token) = page::cut(rows, size, &query, key, convert::entry);
        Ok(ListTimelineEntriesResponse { timeline_entries, next_page_token })
    }
}

/// The customer whose orders to list or watch. `None`: all customers.
pub(super) fn customer(caller: &Caller, asked: &str) -> Result<Option<UserId>, Problem> {
    if asked.is_empty() {
        return Ok(caller.grant.owner());
    }
    let customer = UserId::parse_name(asked).map_err(|error| parse::id("customer", &error))?;
    if !caller.grant.covers(customer) {
        return Err(Problem::access_denied(asked));
    }
    Ok(Some(customer))
}

fn condition(term: Term) -> Result<Condition, Problem> {
    match (term.field, term.value) {
        ("state", Value::Enum(name)) => {
            let code = name.trim_start_matches("STATE_");
            let state = State::from_code(code).map_err(|error| Problem::internal().caused_by(error))?;
            Ok(Condition::State(term.op == Op::Equal, state))
        }
        ("external_id", Value::Text(text)) => Ok(Condition::ExternalId(term.op, text)),
        ("place_time", Value::Time(time)) => Ok(Condition::PlaceTime(term.op, time)),
        ("create_time", Value::Time(time)) => Ok(Condition::CreateTime(term.op, time)),
        (field, value) => Err(Problem::internal().caused_by(format!("a filter of {field} by {value:?}"))),
    }
}

pub(super) fn bad_token(error: PageError) -> Problem {
    Problem::new(Reason::PageTokenInvalid, format!("page_token {error}")).field("page_token", error.to_string())
}
