//! ReconcileStock: compares balances with the ledger and the reservations, and corrects drift.

use souk_common::{auth::Caller, ids::ProductId, page};
use souk_proto::inventory::v1::{
    ReconcileStockRequest, ReconcileStockResponse,
    reconcile_stock_response::{Drift, Repair},
};

use super::{Rpc, stock::bad_token};
use crate::{
    domain::reconcile::{Balance, Mended},
    error::Error,
};

impl Rpc {
    /// One page of products.
    pub(super) async fn reconcile(
        &self,
        caller: &Caller,
        request: &ReconcileStockRequest,
    ) -> Result<ReconcileStockResponse, tonic::Status> {
        let query = ("inventory.reconcile", request.repair);
        let size = page::size(request.page_size);
        let after: Option<ProductId> = page::decode(&request.page_token, &query).map_err(bad_token)?;
        let (products, balances) = self.store.balances(after, size).await?;
        let (_, next_page_token) = page::cut(products, size, &query, |product| *product, |_| ());

        let mut drifts = Vec::new();
        for balance in balances.iter().filter(|balance| balance.drifts()) {
            let mended = match request.repair {
                true => self.store.mend(balance.place, &caller.actor()).await?,
                false => None,
            };
            tracing::warn!(product = %balance.place.0, location = %balance.place.1, ?mended, "stock balance drifted");
            drifts.push(drift(balance, mended));
        }
        let checked_count = i32::try_from(balances.len()).map_err(|_| Error::Lost)?;
        Ok(ReconcileStockResponse { checked_count, drifts, next_page_token })
    }
}

fn drift(balance: &Balance, mended: Option<Mended>) -> Drift {
    let (product, location) = balance.place;
    Drift {
        product: product.name(),
        location: location.name(),
        on_hand: balance.book.on_hand,
        ledger_quantity: balance.proof.on_hand,
        reserved: balance.book.reserved,
        held_quantity: balance.proof.reserved,
        repair: mended.map(|mended| Repair {
            on_hand: mended.level.on_hand,
            reserved: mended.level.reserved,
            entered_quantity: mended.entry,
        }),
    }
}
