//! BatchUpsertProducts: imports a product feed. Each product succeeds or fails on its own.

use prost_types::FieldMask;
use souk_common::error::Problem;
use souk_proto::inventory::v1::{
    BatchUpsertProductsRequest, BatchUpsertProductsResponse, Product as ProductMessage,
    batch_upsert_products_response::{Failure, FieldViolation, Outcome as OutcomeMessage, Result as ResultMessage},
    product::StockTracking,
};
use tonic::Status;

use super::input;
use crate::{
    domain::{
        command::Refusal,
        product::upsert::{Fields, NotTaken, Offer, Outcome, Threshold},
    },
    error::Error,
    rpc::Rpc,
};

impl Rpc {
    /// Imports all valid products.
    pub(super) async fn upsert(
        &self,
        request: BatchUpsertProductsRequest,
    ) -> Result<BatchUpsertProductsResponse, Status> {
        let fields = fields(request.update_mask.as_ref())?;
        let read: Vec<_> = request.products.into_iter().map(|product| self.offer(product)).collect();
        // The valid offers, and the position of each in the request.
        let (mut offers, mut places) = (Vec::new(), Vec::new());
        for (place, offer) in read.iter().enumerate() {
            if let Ok(offer) = offer {
                offers.push(offer.clone());
                places.push(place);
            }
        }
        let mut answers = self.store.upsert_products(&offers, fields).await?.into_iter();
        let results = read
            .into_iter()
            .map(|offer| match offer.map(|_| answers.next()) {
                Ok(Some(Ok(outcome))) => taken(outcome),
                Ok(Some(Err(why))) => refused(not_taken(why, &places)),
                Ok(None) => refused(Problem::internal()),
                Err(problem) => refused(problem),
            })
            .collect();
        Ok(BatchUpsertProductsResponse { results })
    }

    fn offer(&self, given: ProductMessage) -> Result<Offer, Problem> {
        self.contract.check("souk.inventory.v1.Product", &given)?;
        let tracked = given.stock_tracking() != StockTracking::Unspecified;
        let draft = input::draft(given)?;
        Ok(Offer { tracking: tracked.then_some(draft.tracking), draft })
    }
}

/// The fields that a feed may change: those of the mask, or all.
fn fields(mask: Option<&FieldMask>) -> Result<Fields, Problem> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    input::check_mask(paths)?;
    let named = |field: &str| paths.is_empty() || paths.iter().any(|path| path == "*" || path == field);
    Ok(Fields {
        title: named("title"),
        description: named("description"),
        price: named("price"),
        low_stock_threshold: match named("low_stock_threshold") {
            true if paths.is_empty() => Threshold::Given,
            true => Threshold::All,
            false => Threshold::Keep,
        },
    })
}

fn taken(outcome: Outcome) -> ResultMessage {
    let (outcome, product) = match outcome {
        Outcome::Created(id) => (OutcomeMessage::Created, id),
        Outcome::Updated(id) => (OutcomeMessage::Updated, id),
        Outcome::Unchanged(id) => (OutcomeMessage::Unchanged, id),
    };
    ResultMessage { outcome: outcome.into(), product: product.name(), failure: None }
}

fn not_taken(why: NotTaken, places: &[usize]) -> Problem {
    match why {
        NotTaken::Twice(offer) => {
            let place = places.get(offer).copied().unwrap_or_default();
            Problem::invalid("sku", format!("must be unique, but products[{place}] has it, too"))
        }
        NotTaken::Archived(product) => Error::from(Refusal::Archived(vec![product])).into(),
        NotTaken::OtherTracking(_) => Problem::invalid("stock_tracking", "must be as it was when the product was made"),
    }
}

fn refused(problem: Problem) -> ResultMessage {
    let violation = |field: &souk_common::error::Field| FieldViolation {
        field: field.path.strip_prefix("product.").unwrap_or(&field.path).to_owned(),
        description: field.description.clone(),
    };
    let failure = Failure {
        reason: problem.reason().into(),
        message: problem.message().to_owned(),
        field_violations: problem.field_violations().iter().map(violation).collect(),
    };
    ResultMessage { outcome: OutcomeMessage::Refused.into(), product: String::new(), failure: Some(failure) }
}
