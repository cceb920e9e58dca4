//! The saga: one table that says how placing, cancelling and returning go from step to step.
//!
//! Everything else follows from [`TABLE`]: which step comes next, which are passed over because there is nothing
//! to do, when a final state is reached, and what the timeline says. What is not in the table is an error.

use super::Kind;

/// How far an order (the first five) or an adjustment of one (the others) has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Being placed.
    Pending,
    /// Paid, and its stock was taken.
    Confirmed,
    /// Could not be placed. Final.
    Rejected,
    /// Being cancelled.
    Cancelling,
    /// Cancelled. Final.
    Cancelled,
    /// A return under way.
    Returning,
    /// Pieces are being cancelled.
    CancellingItems,
    /// Money is being given back without goods.
    Refunding,
    /// An adjustment that is done. Final.
    Completed,
}

/// What a saga does next. A step may be repeated at any time and then changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Hold the stock.
    Reserve,
    /// Hold the money.
    Authorize,
    /// Take the stock.
    Commit,
    /// Take the money.
    Capture,
    /// Give back stock that is held but not taken, for good: it cannot be held again.
    Release,
    /// Give back money that is held but not taken.
    Void,
    /// Give back stock that was taken.
    Restock,
    /// Give back money that was taken.
    Refund,
}

/// How a step ended. That the other side could not be reached is no end: the step is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As it should.
    Done,
    /// There was not enough stock.
    OutOfStock,
    /// The payment provider said no, for good.
    Refused,
    /// Stock that was to be released turned out to be taken already.
    AlreadyCommitted,
    /// An operator gave it up. Whether the step took effect is unknown.
    Abandoned,
}

/// What the table needs to know of an order or adjustment, to pass over steps that have nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// There are goods whose stock is counted.
    pub goods: bool,
    /// Stock may be held for it.
    pub held: bool,
    /// Money is held for it.
    pub authorized: bool,
    /// There is money to give back.
    pub money: bool,
}

/// Where a transition leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Step(Step),
    /// A final state, and what the timeline says of it.
    Reach(State, Kind),
}

/// One line of the table: in a state, after a step ended so, what the timeline says and where to go. Why an order
/// is rejected stands in the entry of its end, so those outcomes have none of their own.
struct Row(State, Step, Outcome, Option<Kind>, Next);

use Next::{Reach, Step as Go};
use Outcome::{Abandoned, AlreadyCommitted, Done, OutOfStock, Refused};
use State::{Cancelled, Cancelling, CancellingItems, Completed, Confirmed, Pending, Refunding, Rejected, Returning};
use Step::{Authorize, Capture, Commit, Refund, Release, Reserve, Restock, Void};

/// How a saga begins: from which state (none where there was nothing before), in which one, what the timeline says, and
/// the first step.
struct Beginning(Option<State>, State, Kind, Step);

#[rustfmt::skip]
const BEGINNINGS: &[Beginning] = &[
    Beginning(None,            Pending,         Kind::Placed,               Reserve),
    Beginning(Some(Confirmed), Cancelling,      Kind::CancelRequested,      Restock),
    Beginning(None,            Returning,       Kind::ReturnRequested,      Restock),
    Beginning(None,            CancellingItems, Kind::ItemsCancelRequested, Restock),
    Beginning(None,            Refunding,       Kind::RefundRequested,      Refund),
];

/// Money is never captured before the stock is taken, and never stays held.
///
/// An order that ends in [`State::Rejected`] goes through [`Step::Release`] wherever stock may be held: a late replica
/// of a request that is still on its way then finds a reservation that cannot be held or taken any more. An operator
/// can give an order up as long as its money was not asked for: then only money that is held has to go back.
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

/// A state, step and outcome that the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{outcome:?} at {step:?} in {state:?} is no transition")]
pub struct Illegal {
    state: State,
    step: Option<Step>,
    outcome: Outcome,
}

impl Illegal {
    /// An answer where nothing was asked.
    pub(super) fn idle(state: State, outcome: Outcome) -> Self {
        Self { state, step: None, outcome }
    }

    /// That an operator has done a step by other means, unless it is the next one and can be done so.
    pub(super) fn unless_manual(state: State, next: Option<Step>, done: Step) -> Result<(), Self> {
        let fits = next == Some(done) && done.can_be_done_manually();
        if fits { Ok(()) } else { Err(Self { state, step: Some(done), outcome: Done }) }
    }
}

/// Where a transition has led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The state now.
    pub state: State,
    /// What to do next; `None` in a final state.
    pub step: Option<Step>,
    /// What to write into the timeline, in order.
    pub kinds: Vec<Kind>,
}

/// Begins a saga in `state`: placing, cancelling, or an adjustment. `from` is the state before, where there was one.
///
/// # Errors
/// Where no saga begins so.
pub fn begin(from: Option<State>, state: State, facts: Facts) -> Result<Position, Illegal> {
    let beginning = BEGINNINGS.iter().find(|beginning| (beginning.0, beginning.1) == (from, state));
    let &Beginning(_, _, kind, step) = beginning.ok_or(Illegal::idle(state, Done))?;
    settle(state, Go(step), facts, vec![kind])
}

/// Where a saga goes after `step` ended with `outcome`. `facts` are those after the step.
///
/// # Errors
/// Where the table has no such row.
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

/// Passes over steps that have nothing to do.
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
    /// Whether an operator may take it for done, having done it by other means. What became of goods inventory must know
    /// itself, as its book has to agree with the orders; and money that nobody is known to hold could not be taken. Each
    /// of these is its saga's last.
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
    /// Whether a saga runs in this state.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Pending | Cancelling | Returning | CancellingItems | Refunding)
    }
}

#[cfg(test)]
mod picture;
#[cfg(test)]
mod tests;
