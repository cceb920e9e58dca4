//! Calls to the inventory service, with domain types.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, future::try_join_all};
use souk_common::{
    client::Client,
    context::RequestContext,
    error::{Problem, Reason},
    ids::{OrderId, ProductId},
    money::Money,
};
use souk_proto::inventory::v1::{
    BatchGetProductsRequest, BatchUpdateReservationsRequest, CommitReservationRequest, GetAvailabilityRequest, Product,
    ReleaseReservationRequest, ReservationItem, ReserveRequest, ReturnReservationRequest,
    batch_update_reservations_request::{Change as ChangeMessage, change::Change},
    batch_update_reservations_response::{Shortage as ShortageMessage, result::Result as Changed},
    product::{State, StockTracking},
    product_service_client::ProductServiceClient,
    reservation_service_client::ReservationServiceClient,
    stock_service_client::StockServiceClient,
};
use souk_store::coalesce::{BatchError, Coalescer, Limits, SubmitError};

use crate::{
    domain::{Answer, Goods, Offer, Shortage},
    error::Error,
};

/// The most pieces of one product that `ReservationItem` allows.
const MAX_PIECES: i64 = 1_000_000_000;
/// The most products in one call. Their descriptions must fit into one response.
const MAX_NAMES: usize = 100;
/// The most reservation items in one call. They must fit into one request.
const MAX_ITEMS: usize = 10_000;

/// The longest time to wait for prices.
const LONGEST: Duration = Duration::from_secs(10);

/// How long a call may run before the next one is sent in parallel. If a replica of inventory hangs, only the first
/// call waits for it, and the next calls use other replicas.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The inventory service.
#[derive(Clone)]
pub struct Inventory {
    offers: Coalescer<BTreeSet<ProductId>, Offers, CallFailed>,
    changes: Coalescer<Change, Result<(), Refused>, CallFailed>,
    reservations: ReservationServiceClient<Client>,
    stock: StockServiceClient<Client>,
}

/// The offers of the requested products that exist.
pub type Offers = HashMap<ProductId, Offer>;

/// Why a batched call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
struct CallFailed(Problem);

impl BatchError for CallFailed {
    /// True if the error affects all requests of the batch; false if a single request may be its cause.
    fn strikes_all(&self) -> bool {
        !matches!(self.0.reason(), Reason::FieldInvalid | Reason::Internal)
    }
}

/// The inventory service gave no usable answer, so it is unknown whether the call took effect. Retry it.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the inventory service to {method}")]
pub struct Unanswered {
    method: &'static str,
    #[source]
    why: Box<dyn std::error::Error + Send + Sync>,
}

impl Unanswered {
    fn to(method: &'static str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { method, why: why.into() }
    }
}

/// Why inventory refused a change.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    problem: Problem,
    /// The products that are short, if that is the reason.
    shortages: Vec<Shortage>,
}

impl From<tonic::Status> for Refused {
    fn from(status: tonic::Status) -> Self {
        Self { problem: Problem::from_status(&status), shortages: Vec::new() }
    }
}

impl Inventory {
    /// Sends all calls through this client. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let limits = Limits { overlap_after: Some(TIMEOUT), ..Limits::default() };
        let products = ProductServiceClient::new(client.clone());
        let offers = Coalescer::new("offers", limits, move |asked| read_offers(products.clone(), asked));
        let reservations = ReservationServiceClient::new(client.clone());
        let through = reservations.clone();
        let changes = Coalescer::new("reservations", limits, move |asked| change(through.clone(), asked));
        Self { offers, changes, reservations, stock: StockServiceClient::new(client) }
    }

    /// The catalogue's current offers for products. Products that do not exist are omitted. Waiting requests share a
    /// call.
    ///
    /// # Errors
    /// The error for the caller.
    pub async fn offers(&self, products: BTreeSet<ProductId>) -> Result<Offers, Problem> {
        // The call has the longest deadline, because it serves all waiting requests; each request enforces its own.
        let limit = RequestContext::current().map_or(LONGEST, |context| context.remaining(LONGEST));
        let answer = tokio::time::timeout(limit, self.offers.submit(products)).await;
        let answer = answer.map_err(|elapsed| Problem::unavailable("the inventory service").caused_by(elapsed))?;
        answer.map_err(|error| match error {
            SubmitError::Failed(CallFailed(problem)) => problem,
            SubmitError::Overloaded => Error::Overloaded.into(),
            error => Problem::unavailable("the inventory service").caused_by(error),
        })
    }

    /// How many pieces of tracked products are available now.
    ///
    /// # Errors
    /// The error for the caller.
    pub async fn available(
        &self,
        products: impl IntoIterator<Item = ProductId>,
    ) -> Result<HashMap<ProductId, i64>, Problem> {
        let ask = |product: ProductId| {
            let mut stock = self.stock.clone();
            async move {
                let request = GetAvailabilityRequest { product: product.name() };
                let answer = stock.get_availability(request).await.map_err(|status| unread(&status))?;
                let answer = answer.into_inner();
                Ok((product, if answer.unlimited { i64::MAX } else { answer.available }))
            }
        };
        // One call per product, a few at a time: an order may have a thousand.
        let asked: Vec<_> = products.into_iter().map(ask).collect();
        futures::stream::iter(asked).buffer_unordered(8).try_collect().await
    }

    /// Reserves goods for an order.
    ///
    /// # Errors
    /// If there was no usable answer.
    pub async fn reserve(&self, order: OrderId, goods: &[Goods], ttl: Duration) -> Result<Answer, Unanswered> {
        if let Some(much) = goods.iter().find(|goods| goods.quantity > MAX_PIECES) {
            // No stock is that large, and the contract refuses such a request. So the goods count as out of stock.
            return Ok(Answer::OutOfStock {
                message: "not enough stock".into(),
                items: vec![Shortage { product: much.product, wanted: much.quantity, available: 0 }],
            });
        }
        let request =
            ReserveRequest { order: order.name(), items: items(goods), ttl: prost_types::Duration::try_from(ttl).ok() };
        short_or_done("Reserve", self.change("Reserve", Change::Reserve(request)).await?)
    }

    /// Commits the goods that are reserved for an order.
    ///
    /// # Errors
    /// If there was no usable answer.
    pub async fn commit(&self, order: OrderId) -> Result<Answer, Unanswered> {
        let change = Change::Commit(CommitReservationRequest { order: order.name() });
        short_or_done("CommitReservation", self.change("CommitReservation", change).await?)
    }

    /// Releases the goods that are reserved for an order, permanently.
    ///
    /// # Errors
    /// If there was no usable answer.
    pub async fn release(&self, order: OrderId) -> Result<Answer, Unanswered> {
        let change = Change::Release(ReleaseReservationRequest { order: order.name() });
        released(self.change("ReleaseReservation", change).await?)
    }

    /// Returns committed goods of an order to stock, once for each key.
    ///
    /// # Errors
    /// If there was no usable answer.
    pub async fn restock(&self, order: OrderId, key: String, goods: &[Goods]) -> Result<Answer, Unanswered> {
        let request = ReturnReservationRequest { order: order.name(), request_id: key, items: items(goods) };
        restocked(self.reservations.clone().return_reservation(request).await)
    }

    /// Sends a change. Waiting requests share a call.
    async fn change(&self, method: &'static str, change: Change) -> Result<Result<(), Refused>, Unanswered> {
        self.changes.submit(change).await.map_err(|error| Unanswered::to(method, error))
    }
}

/// Sends changes of reservations, in as few calls as possible.
async fn change(
    reservations: ReservationServiceClient<Client>,
    changes: Vec<Change>,
) -> Result<Vec<Result<Result<(), Refused>, CallFailed>>, CallFailed> {
    let mut calls: Vec<Vec<ChangeMessage>> = Vec::new();
    let mut room = 0;
    for change in changes {
        let size = if let Change::Reserve(request) = &change { request.items.len() } else { 1 };
        let change = ChangeMessage { change: Some(change) };
        match calls.last_mut() {
            Some(call) if size <= room => call.push(change),
            _ => {
                calls.push(vec![change]);
                room = MAX_ITEMS;
            }
        }
        room = room.saturating_sub(size);
    }
    let ask = |changes| {
        let (mut reservations, request) = (reservations.clone(), BatchUpdateReservationsRequest { changes });
        async move { reservations.batch_update_reservations(request).await }
    };
    let answers = try_join_all(calls.into_iter().map(ask)).await;
    let answers = answers.map_err(|status| CallFailed(Problem::from_status(&status)))?;
    let results = answers.into_iter().flat_map(|answer| answer.into_inner().results);
    let results = results.map(|result| match result.result {
        Some(Changed::State(_)) => Ok(Ok(())),
        Some(Changed::Error(status)) => match result.shortages.into_iter().map(shortage).collect() {
            Some(shortages) => Ok(Err(Refused { problem: status.into(), shortages })),
            None => Err(CallFailed(Problem::internal())),
        },
        None => Err(CallFailed(Problem::internal())),
    });
    Ok(results.collect())
}

async fn read_offers(
    mut products: ProductServiceClient<Client>,
    asked: Vec<BTreeSet<ProductId>>,
) -> Result<Vec<Result<Offers, CallFailed>>, CallFailed> {
    let all: BTreeSet<ProductId> = asked.iter().flatten().copied().collect();
    let names: Vec<String> = all.into_iter().map(ProductId::name).collect();
    let mut offers = Offers::new();
    for names in names.chunks(MAX_NAMES) {
        let request = BatchGetProductsRequest { names: names.to_vec(), skus: Vec::new(), allow_missing: true };
        let answer = products.batch_get_products(request).await.map_err(|status| CallFailed(unread(&status)))?;
        for product in answer.into_inner().products {
            let (id, offer) = offer(product).ok_or_else(|| CallFailed(Problem::internal()))?;
            offers.insert(id, offer);
        }
    }
    let own = |asked: BTreeSet<ProductId>| asked.iter().filter_map(|id| Some((*id, offers.get(id)?.clone()))).collect();
    Ok(asked.into_iter().map(|asked| Ok(own(asked))).collect())
}

/// The error for a caller when inventory cannot be read.
fn unread(status: &tonic::Status) -> Problem {
    let problem = Problem::from_status(status);
    match problem.reason() {
        Reason::Internal | Reason::Unspecified => Problem::internal().caused_by(problem),
        _ => Problem::unavailable("the inventory service").caused_by(problem),
    }
}

fn offer(product: Product) -> Option<(ProductId, Offer)> {
    let id = ProductId::parse_name(&product.name).ok()?;
    let offer = Offer {
        price: Money::try_from(product.price.as_ref()?).ok()?,
        tracked: product.stock_tracking() != StockTracking::Untracked,
        archived: product.state() == State::Archived,
        sku: product.sku,
        title: product.title,
    };
    Some((id, offer))
}

fn shortage(message: ShortageMessage) -> Option<Shortage> {
    let ShortageMessage { product, wanted, available } = message;
    Some(Shortage { product: ProductId::parse_name(&product).ok()?, wanted, available })
}

fn items(goods: &[Goods]) -> Vec<ReservationItem> {
    goods.iter().map(|goods| ReservationItem { product: goods.product.name(), quantity: goods.quantity }).collect()
}

/// The step's answer to a reservation or a commit: done, or out of stock. Other permanent failures count as out of
/// stock, too: the goods are no longer sold, or no longer reserved.
pub(crate) fn short_or_done<T>(
    method: &'static str,
    answer: Result<T, impl Into<Refused>>,
) -> Result<Answer, Unanswered> {
    let Refused { problem, shortages } = match answer {
        Ok(_) => return Ok(Answer::Done),
        Err(error) => error.into(),
    };
    let message = match problem.reason() {
        Reason::OutOfStock => "not enough stock",
        Reason::ProductArchived => "no longer sold",
        Reason::StateConflict | Reason::ResourceNotFound => "the stock is no longer reserved",
        _ => return Err(Unanswered::to(method, problem)),
    };
    Ok(Answer::OutOfStock { message: message.to_owned(), items: shortages })
}

/// The step's answer to a release: released, or already committed.
pub(crate) fn released<T>(answer: Result<T, impl Into<Refused>>) -> Result<Answer, Unanswered> {
    let Refused { problem, .. } = match answer {
        Ok(_) => return Ok(Answer::Done),
        Err(error) => error.into(),
    };
    match problem.reason() {
        // The only state in which a reservation cannot be released.
        Reason::StateConflict => Ok(Answer::AlreadyCommitted),
        _ => Err(Unanswered::to("ReleaseReservation", problem)),
    }
}

/// The step's answer to a restock: done, or no answer, so that the runner retries.
pub(crate) fn restocked<T>(answer: Result<T, tonic::Status>) -> Result<Answer, Unanswered> {
    let asked_again = |status| Unanswered::to("ReturnReservation", Problem::from_status(&status));
    answer.map(|_| Answer::Done).map_err(asked_again)
}
