//! The saga: one table of the steps of placing, cancelling and adjusting.
//!
//! Everything else is derived from [`TABLE`]: the next step, steps that are skipped because there is nothing to do,
//! final states, and timeline entries. A transition that is not in the table is an error.

use super::Kind;

/// The state of an order (the first five) or of an adjustment (the others).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The order is being placed.
    Pending,
    /// The order is paid, and its stock is committed.
    Confirmed,
    /// The order could not be placed. Final.
    Rejected,
    /// The order is being cancelled.
    Cancelling,
    /// The order is cancelled. Final.
    Cancelled,
    /// A return in progress.
    Returning,
    /// Pieces are being cancelled.
    CancellingItems,
    /// Money is being refunded without a return of goods.
    Refunding,
    /// The adjustment is done. Final.
    Completed,
}

/// A step of a saga. Every step is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Reserve the stock.
    Reserve,
    /// Authorise the payment.
    Authorize,
    /// Commit the reserved stock.
    Commit,
    /// Capture the payment.
    Capture,
    /// Release reserved stock permanently: it cannot be reserved again.
    Release,
    /// Void an authorised payment.
    Void,
    /// Return sold goods to stock.
    Restock,
    /// Refund captured money.
    Refund,
}

/// The outcome of a step. An unreachable service is not an outcome: the step is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The step succeeded.
    Done,
    /// There was not enough stock.
    OutOfStock,
    /// The payment provider refused permanently.
    Refused,
    /// The stock that was to be released is committed already.
    AlreadyCommitted,
    /// An operator abandoned the order. Whether the step took effect is unknown.
    Abandoned,
}

/// Facts about an order or adjustment. They decide which steps can be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The order has goods whose stock is tracked.
    pub goods: bool,
    /// Stock may be reserved for the order.
    pub held: bool,
    /// The payment is authorised.
    pub authorized: bool,
    /// There is money to refund.
    pub money: bool,
}

/// The target of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Step(Step),
    /// A final state, and the timeline entry for it.
    Reach(State, Kind),
}

/// A row of the table: state, step, outcome, timeline entry, next. The final entry has the reason of a rejection, so
/// outcomes that lead to one have no entry of their own.
struct Row(State, Step, Outcome, Option<Kind>, Next);

use Next::{Reach, Step as Go};
use Outcome::{Abandoned, AlreadyCommitted, Done, OutOfStock, Refused};
use State::{Cancelled, Cancelling, CancellingItems, Completed, Confirmed, Pending, Refunding, Rejected, Returning};
use Step::{Authorize, Capture, Commit, Refund, Release, Reserve, Restock, Void};

/// How a saga begins: the state before (if any), the new state, the timeline entry, and the first step.
struct Beginning(Option<State>, State, Kind, Step);

#[rustfmt::skip]
const BEGINNINGS: &[Beginning] = &[
    Beginning(None,            Pending,         Kind::Placed,               Reserve),
    Beginning(Some(Confirmed), Cancelling,      Kind::CancelRequested,      Restock),
    Beginning(None,            Returning,       Kind::ReturnRequested,      Restock),
    Beginning(None,            CancellingItems, Kind::ItemsCancelRequested, Restock),
    Beginning(None,            Refunding,       Kind::RefundRequested,      Refund),
];

/// Money is never captured before the stock is committed, and no authorisation stays open.
///
/// An order that ends in [`State::Rejected`] goes through [`Step::Release`] if stock may be reserved for it. A late
/// duplicate of a request then finds a reservation that cannot be made or committed any more. An operator can abandon
/// an order until its capture is requested: before that, only an authorisation has to be voided.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row(Pending,         Reserve,   Done,       Some(Kind::StockReserved),     Go(Authorize)),
    Row(Pending,         Reserve,   OutOfStock, None,                          Go(Release)),
    Row(Pending,         Reserve,   Abandoned,  Some(Kind::Abandoned),         Go(Release)),
    Row(Pending,         Authorize, Done,       Some(Kind::PaymentAuthorized), Go(Commit)),
    Row(Pending,         Authorize, Refused,    None,                          Go(Release)),
    Row(Pending,         Authorize, Abandoned,  Some(Kind::Abandoned),         Go(Release)),
    Row(Pending,         Commit,    Done,       Some(Kind::StockCommitted),    Go(Capture)),
    Row(Pending,         Commit,    OutOfStock, None,                          Go(Release)),
    Row(Pending,         Commit,    Abandoned,  Some(Kind::Abandoned),         Go(Release)),
    Row(Pending,         Capture,   Done,       Some(Kind::PaymentCaptured),   Reach(Confirmed, Kind::Confirmed)),
    Row(Pending,         Capture,   Refused,    None,                          Go(Restock)),
    Row(Pending,         Release,   Done,       Some(Kind::StockReleased),     Go(Void)),
    Row(Pending,         Release,   AlreadyCommitted,      Some(Kind::StockCommitted),    Go(Restock)),
    Row(Pending,         Restock,   Done,       Some(Kind::StockReturned),     Go(Void)),
    Row(Pending,         Void,      Done,       Some(Kind::PaymentVoided),     Reach(Rejected, Kind::Rejected)),
    Row(Cancelling,      Restock,   Done,       Some(Kind::StockReturned),     Go(Refund)),
    Row(Cancelling,      Refund,    Done,       Some(Kind::PaymentRefunded),   Reach(Cancelled, Kind::Cancelled)),
    Row(Returning,       Restock,   Done,       Some(Kind::StockReturned),     Go(Refund)),
    Row(Returning,       Refund,    Done,       Some(Kind::PaymentRefunded),   Reach(Completed, Kind::ReturnCompleted)),
    Row(CancellingItems, Restock,   Done,       Some(Kind::StockReturned),     Go(Refund)),
    Row(CancellingItems, Refund,    Done,       Some(Kind::PaymentRefunded),   Reach(Completed, Kind::ItemsCancelled)),
    Row(Refunding,       Refund,    Done,       Some(Kind::PaymentRefunded),   Reach(Completed, Kind::RefundCompleted)),
];

/// The table has no row for this state, step and outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{outcome:?} at {step:?} in {state:?} is no transition")]
pub struct Illegal {
    state: State,
    step: Option<Step>,
    outcome: Outcome,
}

impl Illegal {
    /// An answer although no step was running.
    pub(super) fn idle(state: State, outcome: Outcome) -> Self {
        Self { state, step: None, outcome }
    }

    /// Fails unless the step is the next one and can be done manually.
    pub(super) fn unless_manual(state: State, next: Option<Step>, done: Step) -> Result<(), Self> {
        let fits = next == Some(done) && done.can_be_done_manually();
        if fits { Ok(()) } else { Err(Self { state, step: Some(done), outcome: Done }) }
    }
}

/// The result of a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The new state.
    pub state: State,
    /// The next step; `None` in a final state.
    pub step: Option<Step>,
    /// The kinds of timeline entries to write, in order.
    pub kinds: Vec<Kind>,
}

/// Begins a saga in `state`: placing, cancelling, or an adjustment. `from` is the previous state, if there was one.
///
/// # Errors
/// If the table has no such beginning.
pub fn begin(from: Option<State>, state: State, facts: Facts) -> Result<Position, Illegal> {
    let beginning = BEGINNINGS.iter().find(|beginning| (beginning.0, beginning.1) == (from, state));
    let &Beginning(_, _, kind, step) = beginning.ok_or(Illegal::idle(state, Done))?;
    settle(state, Go(step), facts, vec![kind])
}

/// The position of a saga after `step` ended with `outcome`. `facts` are those after the step.
///
/// # Errors
/// If the table has no such row.
pub fn advance(state: State, step: Step, outcome: Outcome, facts: Facts) -> Result<Position, Illegal> {
    let &Row(_, _, _, kind, next) = row(state, step, outcome)?;
    settle(state, next, facts, kind.into_iter().collect())
}

fn row(state: State, step: Step, outcome: Outcome) -> Result<&'static Row, Illegal> {
    TABLE.iter().find(|row| (row.0, row.1, row.2) == (state, step, outcome)).ok_or(Illegal {
        state,
        step: Some(step),
        outcome,
    })
}

/// Skips steps that have nothing to do.
fn settle(state: State, mut next: Next, facts: Facts, mut kinds: Vec<Kind>) -> Result<Position, Illegal> {
    loop {
        match next {
            Go(step) if step.has_work(facts) => {
                return Ok(Position { state, step: Some(step), kinds });
            }
            Go(step) => next = row(state, step, Done)?.4,
            Reach(end, kind) => {
                kinds.push(kind);
                return Ok(Position { state: end, step: None, kinds });
            }
        }
    }
}

impl Step {
    /// True if an operator may do the step manually, outside of souk. Stock steps cannot be done manually, because
    /// inventory's ledger must match the orders. Neither can an authorisation, because a payment without the provider's
    /// reference cannot be captured. Each manual step is the last one of its saga.
    #[must_use]
    pub fn can_be_done_manually(self) -> bool {
        matches!(self, Capture | Void | Refund)
    }

    fn has_work(self, facts: Facts) -> bool {
        match self {
            Authorize | Capture => true,
            Reserve | Commit | Restock => facts.goods,
            Release => facts.goods && facts.held,
            Void => facts.authorized,
            Refund => facts.money,
        }
    }
}

impl State {
    /// True if a saga runs in this state.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Pending | Cancelling | Returning | CancellingItems | Refunding)
    }
}

#[cfg(test)]
mod picture;
#[cfg(test)]
mod tests;
