//! The errors of this service, and their one mapping to statuses.

use std::sync::Arc;

use souk_common::{
    error::{Problem, Reason},
    ids::{LocationId, ProductId},
};
use souk_store::{
    coalesce::{BatchError, SubmitError},
    db::{DbError, Failure},
};

use crate::domain::{
    command::{Changed, Refusal, Shortage, Undercount},
    reservation::State,
};

/// A failure of an operation. Cheap to clone, because one failure may affect a whole batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A rule of the domain refused the operation.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another product has this stock code. Letter case is ignored.
    #[error("sku {0:?} exists already")]
    SkuTaken(String),
    /// Another location has this code. Letter case is ignored.
    #[error("location code {0:?} exists already")]
    LocationCodeTaken(String),
    /// The location does not exist.
    #[error("{0} does not exist")]
    NoLocation(LocationId),
    /// The product changed since the caller read it.
    #[error("the etag is not the current one")]
    EtagMismatch,
    /// Too many changes are waiting already.
    #[error("too many changes of stock are waiting")]
    Overloaded,
    /// The service is shutting down.
    #[error("shutting down")]
    ShuttingDown,
    /// A batch returned no result, because of a bug.
    #[error("a change of stock got no answer")]
    Lost,
    /// The database has a value that souk did not write.
    #[error("the database holds {0}")]
    Corrupt(String),
    /// The database failed.
    #[error(transparent)]
    Db(Arc<DbError>),
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

impl Error {
    /// The products that are short, if that is the reason.
    pub(crate) fn shortages(&self) -> &[Shortage] {
        match self {
            Self::Refused(Refusal::OutOfStock(short)) => short,
            _ => &[],
        }
    }

    /// True if concurrent transactions conflicted, so that a retry may succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        self.db().is_some_and(DbError::is_conflict)
    }
}

impl Failure for Error {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            _ => None,
        }
    }
}

impl BatchError for Error {
    fn strikes_all(&self) -> bool {
        self.db().is_some_and(|error| error.is_unavailable() || error.is_conflict())
    }
}

impl From<SubmitError<Error>> for Error {
    fn from(error: SubmitError<Error>) -> Self {
        match error {
            SubmitError::Overloaded => Self::Overloaded,
            SubmitError::Closed => Self::ShuttingDown,
            SubmitError::Lost => Self::Lost,
            SubmitError::Failed(error) => error,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refused(refusal),
            Error::SkuTaken(sku) => Self::new(
                Reason::ResourceExists,
                format!("a product with the sku {sku} exists already; letter case makes no difference"),
            )
            .field("product.sku", "must be unique"),
            Error::LocationCodeTaken(code) => Self::new(
                Reason::ResourceExists,
                format!("a location with the code {code} exists already; letter case makes no difference"),
            )
            .field("location.code", "must be unique"),
            Error::NoLocation(location) => Self::not_found(location.name()),
            Error::EtagMismatch => Self::etag_mismatch(),
            Error::Overloaded => Self::new(
                Reason::Overloaded,
                "more changes of stock are waiting than the service can take: try again later",
            ),
            Error::ShuttingDown => Self::unavailable("the inventory service"),
            Error::Db(ref cause) if cause.is_unavailable() => {
                cause.problem("the inventory's database").caused_by(error)
            }
            Error::Db(ref cause) if cause.is_conflict() => {
                Self::new(Reason::Conflict, "concurrent changes of the same stock kept colliding: try again")
                    .caused_by(error)
            }
            Error::Lost | Error::Corrupt(_) | Error::Db(_) => Self::internal().caused_by(error),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NoProduct(product) => Problem::not_found(product.name()),
        Refusal::NoItemProduct { item, product } => {
            let path = format!("items[{item}].product");
            Problem::not_found(product.name()).field(path, "must be an existing product")
        }
        Refusal::NoItemLocation { item, location } => {
            let path = format!("items[{item}].location");
            Problem::not_found(location.name()).field(path, "must be an existing location")
        }
        Refusal::NoTransferLocation { field, location } => {
            Problem::not_found(location.name()).field(field, "must be an existing location")
        }
        Refusal::SameLocation(location) => {
            Problem::invalid("destination", format!("must be another location than the source {}", location.name()))
        }
        Refusal::CountedTwice { item, first } => Problem::invalid(
            format!("items[{item}]"),
            format!("must not be of the same product at the same location as items[{first}]"),
        ),
        Refusal::CountedBelowReserved(below) => counted_below_reserved(&below),
        Refusal::ChangedWhileCounted(changed) => changed_while_counted(&changed),
        Refusal::NoLocation => Problem::new(Reason::StateConflict, "there is no location yet: add one first"),
        Refusal::Archived(products) => archived(&products),
        Refusal::OutOfStock(short) => out_of_stock(&short),
        Refusal::OtherItems(order) => {
            Problem::new(Reason::StateConflict, format!("{} has a reservation of other items already", order.name()))
                .violation("RESERVATION_STATE", order.name(), "the items differ from those that are held")
        }
        Refusal::WrongState { order, state } => {
            Problem::new(Reason::StateConflict, format!("the reservation of {} is {}", order.name(), words(state)))
                .violation("RESERVATION_STATE", order.name(), format!("the reservation is {}", words(state)))
                .metadata("state", words(state))
        }
        Refusal::NoReservation(order) => {
            Problem::new(Reason::ResourceNotFound, format!("{} has no reservation", order.name()))
                .resource("souk/Reservation", souk_common::ids::ReservationId::from_uuid(order.uuid()).name())
        }
        Refusal::NotSold(excess) => not_sold(&excess),
        Refusal::Untracked { item, product } => {
            let text = format!("the stock of {} is not tracked, so it cannot be changed", product.name());
            Problem::new(Reason::StateConflict, text)
                .field(format!("items[{item}].product"), "must be a product whose stock is tracked")
                .violation("STOCK_TRACKING", product.name(), "the product's stock is not tracked")
        }
        Refusal::BelowReserved { item, product, quantity, on_hand, left, reserved } => {
            let text =
                format!("{quantity} would leave {left} of the {on_hand} on hand, of which {reserved} are reserved");
            let free = on_hand - reserved;
            Problem::new(Reason::OutOfStock, format!("{}: {text}", product.name()))
                .field(format!("items[{item}].quantity"), format!("must take no more than {free}"))
                .violation("OUT_OF_STOCK", product.name(), text)
                .metadata("onHand", on_hand)
                .metadata("reserved", reserved)
        }
        Refusal::TooMuch(product) => Problem::new(
            Reason::FieldInvalid,
            format!("the stock of {} would be more than can be counted", product.name()),
        ),
        Refusal::KeyReused => Problem::new(
            Reason::IdempotencyKeyReused,
            "request_id was used before for another request: use a new one for each request",
        )
        .field("request_id", "must be new for a new request"),
    }
}

fn archived(products: &[ProductId]) -> Problem {
    let names: Vec<_> = products.iter().map(|product| product.name()).collect();
    let problem = Problem::new(Reason::ProductArchived, format!("no longer sold: {}", names.join(", ")));
    names
        .into_iter()
        .fold(problem, |problem, name| problem.violation("PRODUCT_ARCHIVED", name, "the product is archived"))
}

/// The error for products that are short, with a violation for each. Programs can read the numbers from the response of
/// `BatchUpdateReservations`.
fn out_of_stock(short: &[Shortage]) -> Problem {
    let message = match short {
        [one] => format!("{}: {}", one.product.name(), wanted(one)),
        _ => format!("{} products are not in stock as wanted", short.len()),
    };
    short.iter().fold(Problem::new(Reason::OutOfStock, message), |problem, one| {
        problem.violation("OUT_OF_STOCK", one.product.name(), wanted(one))
    })
}

/// The most items that an error names.
const NAMED: usize = 50;

fn counted_below_reserved(below: &[Undercount]) -> Problem {
    let text = |one: &Undercount| {
        format!("{} counted, but open reservations hold {}: release or commit some first", one.counted, one.reserved)
    };
    let message = match below {
        [one] => format!("{}: {}", one.product.name(), text(one)),
        _ => format!("{} items were counted below what open reservations hold", below.len()),
    };
    below.iter().take(NAMED).fold(Problem::new(Reason::OutOfStock, message), |problem, one| {
        let path = format!("items[{}].counted_quantity", one.item);
        problem.field(path, format!("must be {} at least", one.reserved)).violation(
            "OUT_OF_STOCK",
            one.product.name(),
            text(one),
        )
    })
}

/// The error for stock that changed during a count. Each product has a violation in words, and the metadata
/// `expected/on_hand` for programs.
fn changed_while_counted(changed: &[Changed]) -> Problem {
    let text = |one: &Changed| format!("{} on hand were expected, the book says {}", one.expected, one.on_hand);
    let message = match changed {
        [one] => format!("{}: {}", one.product.name(), text(one)),
        _ => format!("the stock of {} items changed while it was counted", changed.len()),
    };
    let problem = Problem::new(Reason::StateConflict, format!("{message}: count again"));
    changed.iter().take(NAMED).fold(problem, |problem, one| {
        let path = format!("items[{}].expected_on_hand", one.item);
        problem
            .field(path, format!("must be {}, as the book says", one.on_hand))
            .violation("ON_HAND_CHANGED", one.product.name(), text(one))
            .metadata(one.product.name(), format!("{}/{}", one.expected, one.on_hand))
    })
}

fn wanted(shortage: &Shortage) -> String {
    format!("{} wanted, {} available", shortage.wanted, shortage.available)
}

fn not_sold(excess: &[Shortage]) -> Problem {
    let problem = Problem::new(Reason::StateConflict, "more would come back than was sold");
    excess.iter().fold(problem, |problem, one| {
        let text = format!("{} coming back, {} sold and not back yet", one.wanted, one.available);
        problem.violation("NOT_SOLD", one.product.name(), text)
    })
}

fn words(state: State) -> &'static str {
    match state {
        State::Open => "open",
        State::Committed => "committed",
        State::Released => "released",
        State::Expired => "expired",
    }
}
