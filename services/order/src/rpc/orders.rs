//! PlaceOrder.

use std::{pin::pin, time::Duration};

use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::{OrderId, ProductId, UserId},
    money::Money,
};
use souk_proto::{
    common::v1::Address as AddressMessage,
    google::r#type::Money as MoneyMessage,
    order::v1::{Order as OrderMessage, PlaceOrderRequest, place_order_request::Item},
};

use tokio::time::timeout;

use super::{Answered, Parts, parse};
use crate::{
    domain::{self, Address, Entry, Order, Placement, Saga, State, Unpriced, Wanted},
    error::Error,
    reply,
    store::{Key, StoreError, now},
};

/// How long prices take at most, where all is well.
const PROMPT: Duration = Duration::from_millis(200);

impl Parts {
    pub(super) async fn place(
        &self,
        caller: &Caller,
        request: PlaceOrderRequest,
    ) -> Result<Answered<OrderMessage>, Problem> {
        let customer = customer(caller, &request)?;
        staff_only(caller, &request)?;
        let key = parse::key(caller, "PlaceOrder", &request.request_id, &request);
        let validate_only = request.validate_only;
        let mut pricing = pin!(self.priced(customer, &key, request));
        let priced = match timeout(PROMPT, &mut pricing).await {
            Ok(priced) => priced,
            Err(_) => {
                // It takes long: a repeated request should not wait for it.
                if !validate_only && let Some(record) = self.store.find_record(&key).await.map_err(Error::from)? {
                    return Answered::again(record);
                }
                pricing.await
            }
        };
        let (order, entries) = match priced {
            Ok(placed) => placed,
            Err(problem) if validate_only => return Err(problem),
            // A repeated request gets its stored response, even if a product is no longer sold.
            Err(problem) => match self.store.find_record(&key).await.map_err(Error::from)? {
                Some(record) => return Answered::again(record),
                None => return Err(problem),
            },
        };
        if validate_only {
            return self.would_be(order).await.map(Answered::new);
        }
        let lease = self.sagas.lease();
        let known = self.store.place(&key, &order, &entries, lease).await;
        if let Some(record) = known.map_err(Error::from)? {
            return Answered::again(record);
        }
        let saga = Saga::Order(Box::new(order));
        match self.finish(saga, lease, "the order").await? {
            Saga::Order(order) => Ok(Answered::new(reply::order(&order))),
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
        let place_time = parse::past("place_time", request.place_time)?;
        let address = address(request.shipping_address)?;
        let expected_total = expected_total(request.expected_total.as_ref())?;
        let wanted = wanted(&request.items)?;
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

    /// The order as it would be if it were placed now with an approved payment. Nothing is written.
    async fn would_be(&self, order: Order) -> Result<OrderMessage, Problem> {
        if let Some(id) = &order.external_id
            && self.store.external_id_is_taken(id).await.map_err(Error::from)?
        {
            return Err(Error::from(StoreError::ExternalIdTaken).into());
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
            ..reply::order(&order)
        })
    }
}

fn unpriced(unpriced: Unpriced) -> Problem {
    match unpriced {
        Unpriced::Faults(faults) => parse::faults(faults),
        Unpriced::Archived(faults) => {
            let problem = Problem::new(Reason::ProductArchived, "products of the order are no longer sold");
            faults.into_iter().fold(problem, |problem, fault| problem.field(fault.field, fault.message))
        }
    }
}

/// What the caller expects to pay, if they say.
fn expected_total(total: Option<&MoneyMessage>) -> Result<Option<Money>, Problem> {
    let wrong = |what: String| Problem::invalid("expected_total", what);
    let total = total.map(Money::try_from).transpose().map_err(|error| wrong(error.to_string()))?;
    match total {
        Some(total) if total.minor < 0 => Err(wrong("must not be below zero".to_owned())),
        total => Ok(total),
    }
}

/// The error with the new total, as text and in the fields of `google.type.Money`.
fn total_changed(expected: Money, total: Money) -> Problem {
    let told = MoneyMessage::from(total);
    Problem::new(Reason::TotalChanged, format!("the order's total is {total}, not {expected}: ask the buyer again"))
        .field("expected_total", format!("must be {total}, or left out"))
        .metadata("currencyCode", told.currency_code)
        .metadata("units", told.units)
        .metadata("nanos", told.nanos)
}

/// Whose order it is to be.
fn customer(caller: &Caller, request: &PlaceOrderRequest) -> Result<UserId, Problem> {
    if request.customer.is_empty() {
        return caller.user().map_err(|_| Problem::invalid("customer", "must be set if the caller is not a user"));
    }
    let customer = UserId::parse_name(&request.customer).map_err(|error| parse::id("customer", &error))?;
    if !caller.grant.covers(customer) {
        let message = "customer must be empty or yourself: only staff may order for others";
        return Err(Problem::new(Reason::AccessDenied, message)
            .field("customer", "must be empty or the caller")
            .resource("souk/User", request.customer.clone()));
    }
    Ok(customer)
}

/// Refuses what only staff may say.
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

fn wanted(items: &[Item]) -> Result<Vec<Wanted>, Problem> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let field = |name: &str| format!("items[{index}].{name}");
            let unit_price = item.unit_price.as_ref().map(Money::try_from).transpose();
            Ok(Wanted {
                product: ProductId::parse_name(&item.product).map_err(|error| parse::id(&field("product"), &error))?,
                quantity: item.quantity,
                unit_price: unit_price.map_err(|error| Problem::invalid(field("unit_price"), error.to_string()))?,
            })
        })
        .collect()
}

/// Each product once.
fn products(wanted: &[Wanted]) -> std::collections::BTreeSet<ProductId> {
    wanted.iter().map(|item| item.product).collect()
}

fn address(address: Option<AddressMessage>) -> Result<Address, Problem> {
    let address = address.ok_or_else(|| Problem::invalid("shipping_address", "must be set"))?;
    Ok(Address {
        recipient: address.recipient,
        address_lines: address.address_lines,
        locality: address.locality,
        administrative_area: address.administrative_area,
        postal_code: address.postal_code,
        region_code: address.region_code,
    })
}
