//! Stock levels, their changes and their ledger.

use souk_common::{
    auth::Caller,
    error::Problem,
    ids::{LocationId, ProductId},
    page,
};
use souk_proto::inventory::v1::{
    AdjustStockRequest, AdjustStockResponse, CountStockRequest, CountStockResponse, GetAvailabilityRequest,
    GetAvailabilityResponse, GetStockRequest, GetStockResponse, ListLedgerEntriesRequest, ListLedgerEntriesResponse,
    ListLowStockRequest, ListLowStockResponse, ReconcileStockRequest, ReconcileStockResponse, StockLevel,
    TransferStockRequest, TransferStockResponse, WatchStockRequest, adjust_stock_request, count_stock_request,
    stock_service_server::StockService, transfer_stock_request,
};
use tonic::{Request, Response, Status};

use super::{Rpc, bad_token, convert, invalid, request_key, watch};
use crate::{
    domain::{
        command::{Action, Adjustment, Counted, Moved, Reply},
        stock::balance::BalancePage,
    },
    error::Error,
};

#[tonic::async_trait]
impl StockService for Rpc {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<GetStockResponse>, Status> {
        let request = request.into_inner();
        let product = ProductId::parse_name(&request.product).map_err(invalid("product"))?;
        let mut response = GetStockResponse::default();
        match request.read_time {
            None => response.levels = self.store.stock(product).await?.into_iter().map(convert::level).collect(),
            Some(given) => {
                let time = convert::moment(&given).ok_or_else(|| Problem::invalid("read_time", "must be a time"))?;
                let levels = self.store.stock_at(product, time).await?;
                response.past_levels = levels.into_iter().map(convert::past_level).collect();
            }
        }
        Ok(Response::new(response))
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

    async fn list_low_stock(
        &self,
        request: Request<ListLowStockRequest>,
    ) -> Result<Response<ListLowStockResponse>, Status> {
        let request = request.into_inner();
        let query = "inventory.low";
        let size = page::size(request.page_size);
        let after: Option<ProductId> = page::decode(&request.page_token, query).map_err(bad_token)?;
        let found = self.store.low_stock(after, size + 1).await?;
        let (low_stocks, next_page_token) = page::cut(found, size, &query, |low| low.product, convert::low_stock);
        Ok(Response::new(ListLowStockResponse { low_stocks, next_page_token }))
    }

    async fn adjust_stock(
        &self,
        request: Request<AdjustStockRequest>,
    ) -> Result<Response<AdjustStockResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let adjustment = |(index, item): (usize, &adjust_stock_request::Item)| {
            let (product, location) = (item_product(index, &item.product)?, item_location(index, &item.location)?);
            Ok::<_, Problem>(Adjustment { product, location, quantity: item.quantity })
        };
        let items = request.items.iter().enumerate().map(adjustment).collect::<Result<_, _>>()?;
        let reason = convert::reason(request.reason)
            .ok_or_else(|| Problem::invalid("reason", "must be a reason for a change made manually"))?;
        let action = Action::Adjust {
            key: request_key(&caller, "AdjustStock", &request.request_id, &request),
            items,
            reason,
            reference: request.reference,
            note: request.note,
        };
        let levels = self.levels_after(&caller, action).await?;
        Ok(Response::new(AdjustStockResponse { levels }))
    }

    async fn transfer_stock(
        &self,
        request: Request<TransferStockRequest>,
    ) -> Result<Response<TransferStockResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let key = request_key(&caller, "TransferStock", &request.request_id, &request);
        let moved = |(index, item): (usize, &transfer_stock_request::Item)| {
            Ok::<_, Problem>(Moved { product: item_product(index, &item.product)?, quantity: item.quantity })
        };
        let action = Action::Transfer {
            key,
            source: LocationId::parse_name(&request.source).map_err(invalid("source"))?,
            destination: LocationId::parse_name(&request.destination).map_err(invalid("destination"))?,
            items: request.items.iter().enumerate().map(moved).collect::<Result<_, _>>()?,
            reference: if request.reference.is_empty() { request.request_id } else { request.reference },
            note: request.note,
        };
        let levels = self.levels_after(&caller, action).await?;
        Ok(Response::new(TransferStockResponse { levels }))
    }

    async fn count_stock(&self, request: Request<CountStockRequest>) -> Result<Response<CountStockResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let key = request_key(&caller, "CountStock", &request.request_id, &request);
        let counted = |(index, item): (usize, &count_stock_request::Item)| {
            let product = item_product(index, &item.product)?;
            let location = item_location(index, &item.location)?;
            let (quantity, expected_on_hand) = (item.counted_quantity, item.expected_on_hand);
            Ok::<_, Problem>(Counted { product, location, quantity, expected_on_hand })
        };
        let action = Action::Count {
            key,
            items: request.items.iter().enumerate().map(counted).collect::<Result<_, _>>()?,
            reference: request.reference,
            note: request.note,
        };
        let levels = self.levels_after(&caller, action).await?;
        Ok(Response::new(CountStockResponse { levels }))
    }

    async fn reconcile_stock(
        &self,
        request: Request<ReconcileStockRequest>,
    ) -> Result<Response<ReconcileStockResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let query = ("inventory.reconcile", request.repair);
        let size = page::size(request.page_size);
        let after: Option<ProductId> = page::decode(&request.page_token, &query).map_err(bad_token)?;
        let BalancePage { products, balances } = self.store.balances(after, size).await?;
        let (_, next_page_token) = page::cut(products, size, &query, |product| *product, |_| ());

        let mut drifts = Vec::new();
        for balance in balances.iter().filter(|balance| balance.drifts()) {
            let mended = match request.repair {
                true => self.store.mend(balance.place, &caller.actor()).await?,
                false => None,
            };
            tracing::warn!(product = %balance.place.0, location = %balance.place.1, ?mended, "stock balance drifted");
            drifts.push(convert::drift(balance, mended));
        }
        let checked_count = i32::try_from(balances.len()).map_err(|_| Error::Lost)?;
        Ok(Response::new(ReconcileStockResponse { checked_count, drifts, next_page_token }))
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
        let (ledger_entries, next_page_token) =
            page::cut(entries, size, &query, |entry| entry.seq, convert::ledger_entry);
        Ok(Response::new(ListLedgerEntriesResponse { ledger_entries, next_page_token }))
    }
}

impl Rpc {
    /// Changes stock manually. Returns the new stock levels.
    async fn levels_after(&self, caller: &Caller, action: Action) -> Result<Vec<StockLevel>, Status> {
        match self.change(caller, action).await? {
            Reply::Levels(levels) => Ok(levels.into_iter().map(convert::level).collect()),
            Reply::Reservation(_) => Err(Error::Lost.into()),
        }
    }
}

fn item_product(index: usize, name: &str) -> Result<ProductId, Problem> {
    ProductId::parse_name(name).map_err(invalid(format!("items[{index}].product")))
}

/// The location of an item, if it names one.
fn item_location(index: usize, name: &str) -> Result<Option<LocationId>, Problem> {
    match name {
        "" => Ok(None),
        name => Ok(Some(LocationId::parse_name(name).map_err(invalid(format!("items[{index}].location")))?)),
    }
}
