//! Orders: placing, cancelling and listing them.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::{OrderId, ProductId, UserId},
    money::Money,
    page::{
        self,
        filter::{Field, Kind, Op, Term, Value},
    },
};
use souk_proto::{
    google::r#type::Money as MoneyMessage,
    order::v1::{
        CancelOrderRequest, ListOrdersRequest, ListOrdersResponse, Order as OrderMessage, PlaceOrderRequest, Refund,
    },
};
use tokio::time::timeout;

use super::{Answered, Parts, RETRY, convert, missing};
use crate::{
    domain::{self, CancelRefusal, Entry, Order, Placement, Saga, State, Unpriced, Wanted, Wish},
    error::Error,
    events,
    saga::answer,
    store::{Cancel, Condition, IdempotencyRecord, Key, OrderKey, OrderScope, Query, now},
};

/// The longest time that reading prices normally takes.
const PROMPT: Duration = Duration::from_millis(200);

const STATES: &[&str] = &["STATE_PENDING", "STATE_CONFIRMED", "STATE_REJECTED", "STATE_CANCELLING", "STATE_CANCELLED"];

const FIELDS: &[Field] = &[
    Field::new("state", Kind::Enum(STATES)),
    Field::new("external_id", Kind::Text),
    Field::new("place_time", Kind::Time),
    Field::new("create_time", Kind::Time),
];

impl Parts {
    pub(super) async fn place(
        &self,
        caller: &Caller,
        request: PlaceOrderRequest,
    ) -> Result<Answered<OrderMessage>, Problem> {
        let customer = customer(caller, &request)?;
        staff_only(caller, &request)?;
        let key = convert::key(caller, "PlaceOrder", &request.request_id, &request);
        let validate_only = request.validate_only;
        let mut pricing = pin!(self.priced(customer, &key, request));
        let priced = match timeout(PROMPT, &mut pricing).await {
            Ok(priced) => priced,
            Err(_) => {
                // Prices take unusually long. A repeated request should not wait for them.
                if !validate_only && let Some(record) = self.store.find_record(&key).await? {
                    return Answered::again(record);
                }
                pricing.await
            }
        };
        let (order, entries) = match priced {
            Ok(placed) => placed,
            Err(problem) if validate_only => return Err(problem),
            // A repeated request gets its stored response, even if a product is no longer sold.
            Err(problem) => match self.store.find_record(&key).await? {
                Some(record) => return Answered::again(record),
                None => return Err(problem),
            },
        };
        if validate_only {
            return self.would_be(order).await.map(Answered::new);
        }
        let lease = self.sagas.lease();
        if let Some(record) = self.store.place(&key, &order, &entries, lease).await? {
            return Answered::again(record);
        }
        let saga = Saga::Order(Box::new(order));
        match self.finish(saga, lease, "the order").await? {
            Saga::Order(order) => Ok(Answered::new(events::order(&order))),
            Saga::Adjustment(_) => Err(Problem::internal()),
        }
    }

    /// The requested order, at current prices.
    async fn priced(
        &self,
        customer: UserId,
        key: &Key,
        request: PlaceOrderRequest,
    ) -> Result<(Order, Vec<Entry>), Problem> {
        let place_time = convert::past("place_time", request.place_time)?;
        let address = convert::address(request.shipping_address)?;
        let expected_total = convert::expected_total(request.expected_total.as_ref())?;
        let wanted = convert::wanted(&request.items)?;
        let offers = self.inventory.offers(products(&wanted)).await?;
        let priced = domain::price(&wanted, &offers).map_err(unpriced)?;
        if let Some(expected) = expected_total.filter(|expected| *expected != priced.total) {
            return Err(total_changed(expected, priced.total));
        }
        let placement = Placement {
            id: OrderId::new(),
            customer,
            actor: key.caller.clone(),
            priced,
            address,
            external_id: Some(request.external_id).filter(|id| !id.is_empty()),
            payment_token: request.payment_token,
            place_time,
        };
        Ok(Order::place(placement, now()).map_err(Error::from)?)
    }

    /// The order as it would be if it were placed now and the payment were approved. Nothing is written.
    async fn would_be(&self, order: Order) -> Result<OrderMessage, Problem> {
        if let Some(id) = &order.external_id
            && self.store.external_id_is_taken(id).await?
        {
            return Err(Error::ExternalIdTaken.into());
        }
        let goods = order.goods();
        let available = self.inventory.available(goods.iter().map(|goods| goods.product)).await?;
        let rejection = domain::shortage(&goods, &available);
        let state = if rejection.is_some() { State::Rejected } else { State::Confirmed };
        let order = Order { state, rejection, ..order };
        Ok(OrderMessage {
            name: String::new(),
            place_time: None,
            create_time: None,
            update_time: None,
            etag: String::new(),
            ..events::order(&order)
        })
    }

    pub(super) async fn cancel(
        &self,
        caller: &Caller,
        request: &CancelOrderRequest,
    ) -> Result<Answered<OrderMessage>, Problem> {
        let id = convert::order_id("name", &request.name)?;
        let items = convert::pieces(&request.items, |item| (item.line_number, item.quantity));
        let key = convert::key(caller, "CancelOrder", &request.request_id, request);
        if !items.is_empty() {
            if request.request_id.is_empty() {
                return Err(Problem::invalid("request_id", "must be set to cancel items"));
            }
            if let Some(record) = self.store.find_record(&key).await? {
                return self.cancelled_again(caller, record).await;
            }
        }
        let lease = self.sagas.lease();
        let wish = Wish { actor: &key.caller, reason: &request.reason, etag: &request.etag };
        let scope = OrderScope { id, owner: caller.grant.owner() };
        let begun = match self.store.cancel(scope, &key, &items, wish, lease, answer::encoded_adjustment).await? {
            Cancel::NotFound => return Err(missing(caller, id)),
            Cancel::Refused(refusal, order) => return Err(cannot_cancel(refusal, &order)),
            Cancel::Already(order) => return Ok(Answered::new(events::order(&order))),
            Cancel::Known(record) => return self.cancelled_again(caller, record).await,
            Cancel::Begun(saga) => saga,
        };
        match self.finish(begun, lease, "the cancellation").await? {
            Saga::Order(order) => Ok(Answered::new(events::order(&order))),
            Saga::Adjustment(_) => Ok(Answered::new(self.order(caller, id).await?)),
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
        Ok(Answered { message: self.order(caller, id).await?, replayed })
    }

    /// An order, if the caller may see it.
    pub(super) async fn order(&self, caller: &Caller, id: OrderId) -> Result<OrderMessage, Problem> {
        let order = self.store.order(id, caller.grant.owner()).await?.ok_or_else(|| missing(caller, id))?;
        Ok(events::order(&order))
    }

    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &ListOrdersRequest,
    ) -> Result<ListOrdersResponse, Problem> {
        let customer = listed_customer(caller, &request.customer)?;
        let conditions = convert::conditions(&request.filter, FIELDS, condition)?;
        let query = ("orders.list", customer, &request.filter);
        let size = page::size(request.page_size);
        let after: Option<OrderKey> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let wish = Query { customer, conditions, after, limit: size + 1 };
        let rows = self.store.orders(&wish).await?;
        let key = |order: &Order| (order.create_time, order.id);
        let (orders, next_page_token) = page::cut(rows, size, &query, key, |order| events::order(&order));
        Ok(ListOrdersResponse { orders, next_page_token })
    }
}

fn unpriced(unpriced: Unpriced) -> Problem {
    match unpriced {
        Unpriced::Faults(faults) => convert::faults(faults),
        Unpriced::Archived(faults) => {
            let problem = Problem::new(Reason::ProductArchived, "products of the order are no longer sold");
            faults.into_iter().fold(problem, |problem, fault| problem.field(fault.field, fault.message))
        }
    }
}

/// The error with the new total, as text and as the fields of `google.type.Money`.
fn total_changed(expected: Money, total: Money) -> Problem {
    let told = MoneyMessage::from(total);
    Problem::new(Reason::TotalChanged, format!("the order's total is {total}, not {expected}: ask the buyer again"))
        .field("expected_total", format!("must be {total}, or left out"))
        .metadata("currencyCode", told.currency_code)
        .metadata("units", told.units)
        .metadata("nanos", told.nanos)
}

/// The customer of the new order.
fn customer(caller: &Caller, request: &PlaceOrderRequest) -> Result<UserId, Problem> {
    if request.customer.is_empty() {
        return caller.user().map_err(|_| Problem::invalid("customer", "must be set if the caller is not a user"));
    }
    let customer = UserId::parse_name(&request.customer).map_err(|error| convert::bad_id("customer", &error))?;
    if !caller.grant.covers(customer) {
        let message = "customer must be empty or yourself: only staff may order for others";
        return Err(Problem::new(Reason::AccessDenied, message)
            .field("customer", "must be empty or the caller")
            .resource("souk/User", request.customer.clone()));
    }
    Ok(customer)
}

/// Refuses fields that only staff may set.
fn staff_only(caller: &Caller, request: &PlaceOrderRequest) -> Result<(), Problem> {
    if caller.grant.owner().is_none() {
        return Ok(());
    }
    let prices = request.items.iter().enumerate();
    let mut fields: Vec<String> = prices
        .filter(|(_, item)| item.unit_price.is_some())
        .map(|(index, _)| format!("items[{index}].unit_price"))
        .collect();
    if !request.external_id.is_empty() {
        fields.push("external_id".to_owned());
    }
    if request.place_time.is_some() {
        fields.push("place_time".to_owned());
    }
    let Some(first) = fields.first() else {
        return Ok(());
    };
    let problem = Problem::new(Reason::AccessDenied, format!("{first} is for staff alone: leave it out"));
    Err(fields.into_iter().fold(problem, |problem, field| problem.field(field, "is for staff alone: leave it out")))
}

/// The requested products, each once.
fn products(wanted: &[Wanted]) -> BTreeSet<ProductId> {
    wanted.iter().map(|item| item.product).collect()
}

fn cannot_cancel(refusal: CancelRefusal, order: &Order) -> Problem {
    let name = order.id.name();
    match refusal {
        CancelRefusal::Faults(faults) => convert::faults(faults),
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

/// The customer whose orders to list or watch. `None`: all customers.
pub(super) fn listed_customer(caller: &Caller, asked: &str) -> Result<Option<UserId>, Problem> {
    if asked.is_empty() {
        return Ok(caller.grant.owner());
    }
    let customer = UserId::parse_name(asked).map_err(|error| convert::bad_id("customer", &error))?;
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
