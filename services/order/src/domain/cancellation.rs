//! Cancels an order, or some of its pieces.

use chrono::{DateTime, Utc};

use super::{Adjustment, Entry, Fault, Illegal, Move, Order, Pieces, Refusal, State, What, Wish, saga};

/// Why an order cannot be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelRefusal {
    /// The order was rejected, so there is nothing to cancel.
    Rejected,
    /// A saga is running: the client should retry.
    Busy,
    /// The order has changed since the caller saw it.
    EtagMismatch,
    /// Some pieces were shipped already.
    Shipped,
    /// Some fields of the request do not fit the order.
    Faults(Vec<Fault>),
}

/// The result of a request to cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// The order was cancelled before.
    Already,
    /// The whole order is being cancelled.
    Whole(Vec<Entry>),
    /// Some pieces are being cancelled.
    Items(Box<Adjustment>, Vec<Entry>),
}

impl Order {
    /// Begins to cancel pieces of the order. If no pieces are given, or they are all that is left and nothing was
    /// shipped, the whole order is cancelled.
    ///
    /// # Errors
    /// The reason if it is not possible; an [`Illegal`] only if the saga's table is wrong. The order is then
    /// unchanged.
    pub fn cancel(
        &mut self,
        items: &[Pieces],
        wish: Wish<'_>,
        now: DateTime<Utc>,
    ) -> Result<Result<Cancelling, CancelRefusal>, Illegal> {
        match self.state {
            // Checked before the etag: a caller who repeats a request after a lost response still has the old etag.
            State::Cancelled => return Ok(Ok(Cancelling::Already)),
            State::Rejected => return Ok(Err(CancelRefusal::Rejected)),
            State::Confirmed => {}
            _ => return Ok(Err(CancelRefusal::Busy)),
        }
        if !wish.etag.is_empty() && wish.etag != self.etag() {
            return Ok(Err(CancelRefusal::EtagMismatch));
        }
        let shipped = self.lines.iter().any(|line| line.shipped > 0);
        if !items.is_empty() {
            let mut rest = self.clone();
            if let Err(faults) = rest.book(items, "items", Move::Cancel) {
                return Ok(Err(CancelRefusal::Faults(faults)));
            }
            if shipped || rest.lines.iter().any(|line| line.open() > 0) {
                let what = What::Cancellation(items.to_vec());
                return Ok(match Adjustment::begin(self, &what, wish, None, now)? {
                    Ok((adjustment, entries)) => Ok(Cancelling::Items(Box::new(adjustment), entries)),
                    Err(Refusal::Faults(faults)) => Err(CancelRefusal::Faults(faults)),
                    Err(Refusal::Busy | Refusal::State(_)) => Err(CancelRefusal::Busy),
                });
            }
        }
        if shipped {
            return Ok(Err(CancelRefusal::Shipped));
        }
        if self.pending_returns > 0 {
            return Ok(Err(CancelRefusal::Busy));
        }
        let position = saga::begin(Some(self.state), State::Cancelling, self.facts())?;
        Ok(Ok(Cancelling::Whole(self.go(position, wish.actor, wish.reason, now))))
    }
}
