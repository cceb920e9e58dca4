//! Adjustments of orders: returns, refunds and cancelled pieces.

use souk_common::ids::ReturnId;
use souk_store::db;

use super::{Adjusting, Begin, Key, Lease, OrderScope, Store, now, postgres, sqlite, values::BegunAdjustment};
use crate::{
    domain::{Adjustment, Wish},
    error::Error,
};

impl Store {
    /// Records an adjustment under a lease. `respond` makes the response of one that is final at once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn adjust(
        &self,
        key: &Key,
        Adjusting { order: id, what, time }: Adjusting<'_>,
        wish: Wish<'_>,
        lease: Lease,
        respond: impl Fn(&Adjustment) -> Vec<u8> + Sync,
    ) -> Result<Begin<Box<Adjustment>>, Error> {
        let now = now();
        let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
            let mut order = match q::order_to_change_once(conn, key, id).await? {
                Err(begin) => return Ok(begin),
                Ok(order) => order,
            };
            let version = order.version;
            let (adjustment, entries) = match Adjustment::begin(&mut order, what, wish, time, now)? {
                Err(refusal) => return Ok(Begin::Refused(refusal)),
                Ok(begun) => begun,
            };
            let response = respond(&adjustment);
            let begun = BegunAdjustment { order: &order, version, adjustment: &adjustment, entries: &entries };
            q::begin_adjustment(conn, key, begun, lease, &response).await?;
            Ok(Begin::Begun(Box::new(adjustment)))
        });
        self.notify_if_ok(written)
    }

    /// A page of the adjustments of an order that stayed confirmed, oldest first. `None` if the order does not
    /// exist or is not this owner's.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn adjustments(
        &self,
        OrderScope { id, owner }: OrderScope,
        after: Option<ReturnId>,
        limit: i64,
    ) -> Result<Option<Vec<Adjustment>>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> {
            let Some(order) = q::order(conn, id, owner).await? else { return Ok(None) };
            Ok(Some(q::adjustments(conn, &order, after, limit).await?))
        })
    }
}
