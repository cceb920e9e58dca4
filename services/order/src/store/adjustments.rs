//! Adjustments of orders: returns, refunds and cancelled pieces.

use chrono::{DateTime, Utc};
use souk_common::ids::{OrderId, ReturnId};
use souk_store::db;

use super::{Begin, Key, Lease, OrderScope, Store, now, postgres, sqlite};
use crate::{
    domain::{Adjustment, Entry, Order, What, Wish},
    error::Error,
};

/// An adjustment to begin.
#[derive(Clone, Copy, Debug)]
pub struct Adjusting<'a> {
    /// The order to adjust.
    pub order: OrderId,
    /// The requested adjustment.
    pub what: &'a What,
    /// When the change happened. `None`: now.
    pub time: Option<DateTime<Utc>>,
}

/// An adjustment to record together with its effects on the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct BegunAdjustment<'a> {
    /// The order after the adjustment.
    pub order: &'a Order,
    /// The order's version before the adjustment.
    pub version: i64,
    pub adjustment: &'a Adjustment,
    pub entries: &'a [Entry],
}

impl Store {
    /// Records an adjustment under a lease. `respond` creates the response of an adjustment that is final at once.
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

    /// A page of an order's adjustments for which the order stayed confirmed, oldest first. `None` if the order does
    /// not exist or belongs to another customer than `owner`.
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
