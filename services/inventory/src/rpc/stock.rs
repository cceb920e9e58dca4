//! How much there is of what, and why.

use prost::Message as _;
use souk_common::{
    auth::Caller,
    error::{Problem, Reason},
    ids::{LocationId, ProductId},
    page,
};
use souk_proto::inventory::v1::{
    AdjustStockRequest, AdjustStockResponse, GetAvailabilityRequest, GetAvailabilityResponse, GetStockRequest,
    GetStockResponse, ListLedgerEntriesRequest, ListLedgerEntriesResponse, WatchStockRequest,
    adjust_stock_request::Item, stock_service_server::StockService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, convert, invalid, watch};
use crate::{
    domain::command::{Action, Adjustment, Reply, RequestKey},
    error::Error,
};

#[tonic::async_trait]
impl StockService for Rpc {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<GetStockResponse>, Status> {
        let product = ProductId::parse_name(&request.get_ref().product).map_err(invalid("product"))?;
        let levels = self.store.stock(product).await?;
        let levels = levels.into_iter().map(convert::level).collect();
        Ok(Response::new(GetStockResponse { levels }))
    }

    type WatchStockStream = watch::Changes;

    async fn watch_stock(&self, request: Request<WatchStockRequest>) -> Result<Response<watch::Changes>, Status> {
        Ok(Response::new(watch::stock(&self.log, request.into_inner()).await?))
    }

    async fn get_availability(
        &self,
        request: Request<GetAvailabilityRequest>,
    ) -> Result<Response<GetAvailabilityResponse>, Status> {
        let product = ProductId::parse_name(&request.get_ref().product).map_err(invalid("product"))?;
        let available = self.store.availability(product).await?;
        Ok(Response::new(GetAvailabilityResponse {
            available: available.unwrap_or_default(),
            unlimited: available.is_none(),
        }))
    }

    async fn adjust_stock(
        &self,
        request: Request<AdjustStockRequest>,
    ) -> Result<Response<AdjustStockResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let items = request.items.iter().enumerate().map(adjustment).collect::<Result<_, _>>()?;
        let reason = convert::reason(request.reason)
            .ok_or_else(|| Problem::invalid("reason", "must be a reason for a change made by hand"))?;
        let (actor, bytes) = (caller.actor(), request.encode_to_vec());
        let action = Action::Adjust {
            key: RequestKey::new(&actor, "AdjustStock", &request.request_id, &bytes),
            items,
            reason,
            reference: request.reference,
            note: request.note,
        };
        match self.change(&caller, action).await? {
            Reply::Levels(levels) => {
                let levels = levels.into_iter().map(convert::level).collect();
                Ok(Response::new(AdjustStockResponse { levels }))
            }
            Reply::Reservation(_) => Err(Error::Lost.into()),
        }
    }

    async fn list_ledger_entries(
        &self,
        request: Request<ListLedgerEntriesRequest>,
    ) -> Result<Response<ListLedgerEntriesResponse>, Status> {
        let request = request.into_inner();
        let product = ProductId::parse_name(&request.parent).map_err(invalid("parent"))?;
        let query = ("inventory.ledger", product);
        let size = page::size(request.page_size);
        let before: Option<i64> = page::decode(&request.page_token, &query).map_err(bad_token)?;
        let entries = self.store.ledger(product, before, size + 1).await?;
        let (entries, next_page_token) = page::cut(entries, size, &query, |(seq, _)| *seq);
        let ledger_entries = entries.into_iter().map(|(_, entry)| convert::ledger_entry(entry)).collect();
        Ok(Response::new(ListLedgerEntriesResponse { ledger_entries, next_page_token }))
    }
}

fn adjustment((index, item): (usize, &Item)) -> Result<Adjustment, Problem> {
    let product = ProductId::parse_name(&item.product).map_err(invalid(format!("items[{index}].product")))?;
    let location = match item.location.as_str() {
        "" => None,
        name => Some(LocationId::parse_name(name).map_err(invalid(format!("items[{index}].location")))?),
    };
    Ok(Adjustment { product, location, quantity: item.quantity })
}

/// A page token that is not one.
pub(super) fn bad_token(error: page::PageError) -> Problem {
    let text = error.to_string();
    Problem::new(Reason::PageTokenInvalid, format!("page_token {text}")).field("page_token", text)
}
