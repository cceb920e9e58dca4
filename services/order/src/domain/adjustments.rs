//! Adjustments of a confirmed order: returns, cancellations of pieces, and refunds without goods. One saga runs all
//! three: first it returns the goods to stock, if there are any, then it refunds the money, if there is any.

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, RefundId, ReturnId},
    money::Money,
};

use super::{
    Action, Answer, Entry, Facts, Fault, Goods, Illegal, Kind, Move, Order, Outcome, Pieces, Position, SERVICE_ACTOR,
    State, Step, Wish, saga,
};

/// An adjustment of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// The adjustment's id.
    pub id: ReturnId,
    /// The order that is adjusted.
    pub order: OrderId,
    /// The kind of adjustment.
    pub cause: Cause,
    /// The state of the adjustment.
    pub state: State,
    /// The next step of the adjustment's saga; `None` at the end.
    pub step: Option<Step>,
    /// The pieces, by line. Each line occurs once.
    pub lines: Vec<Pieces>,
    /// Those of the pieces whose stock is tracked, by product.
    pub goods: Vec<Goods>,
    /// The amount to refund.
    pub refund: Money,
    /// The reason, in the user's words.
    pub reason: String,
    /// When the change happened.
    pub time: DateTime<Utc>,
    /// When the adjustment was recorded.
    pub create_time: DateTime<Utc>,
    /// Failed tries since the saga's last completed step.
    pub attempts: i32,
    /// True if an operator refunded the money outside of souk.
    pub settled_manually: bool,
}

/// The kind of adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Goods were returned.
    Return,
    /// Pieces were cancelled before they were shipped.
    Cancellation,
    /// Money is refunded without goods.
    Refund,
}

/// A requested adjustment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The returned pieces.
    Return(Vec<Pieces>),
    /// The pieces to cancel.
    Cancellation(Vec<Pieces>),
    /// The amount to refund without goods.
    Refund(Money),
}

/// Why an order cannot be adjusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The order is being placed: the client should retry.
    Busy,
    /// The order was never paid, or is cancelled. Has its state.
    State(State),
    /// Some fields of the request do not fit the order.
    Faults(Vec<Fault>),
}

impl Cause {
    /// The state while the adjustment's saga runs.
    #[must_use]
    pub fn running(self) -> State {
        match self {
            Self::Return => State::Returning,
            Self::Cancellation => State::CancellingItems,
            Self::Refund => State::Refunding,
        }
    }
}

impl Order {
    /// Checks that the order is paid, so that it can be adjusted.
    pub(super) fn settled(&self) -> Result<(), Refusal> {
        match self.state {
            State::Confirmed => Ok(()),
            State::Pending => Err(Refusal::Busy),
            state => Err(Refusal::State(state)),
        }
    }

    /// Checks that this amount can be refunded without goods.
    fn can_refund(&self, amount: Money) -> Result<(), Vec<Fault>> {
        let left = self.refundable();
        let message = if amount.currency != self.currency {
            format!("must be in {}, as the order is", self.currency)
        } else if amount.minor <= 0 {
            "must be above zero".to_owned()
        } else if amount.minor > left {
            format!("must be at most {}: what is left of the payment", self.money(left))
        } else {
            return Ok(());
        };
        Err(vec![Fault::new("amount".to_owned(), message)])
    }
}

impl Adjustment {
    /// Begins an adjustment: adds its pieces and money to the order, so that nothing is returned or refunded twice.
    ///
    /// # Errors
    /// The reason if it is not possible; an [`Illegal`] only if the saga's table is wrong. The order is then
    /// unchanged.
    pub fn begin(
        order: &mut Order,
        what: &What,
        wish: Wish<'_>,
        time: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<Result<(Self, Vec<Entry>), Refusal>, Illegal> {
        if let Err(refusal) = order.settled() {
            return Ok(Err(refusal));
        }
        let mut next = order.clone();
        let (cause, lines) = match what {
            What::Return(items) => (Cause::Return, next.book(items, "items", Move::Return)),
            What::Cancellation(items) => (Cause::Cancellation, next.book(items, "items", Move::Cancel)),
            What::Refund(amount) => (Cause::Refund, order.can_refund(*amount).map(|()| Vec::new())),
        };
        let lines = match lines {
            Ok(lines) => lines,
            Err(faults) => return Ok(Err(Refusal::Faults(faults))),
        };
        let refund = match what {
            What::Refund(amount) => *amount,
            // Earlier refunds without goods may have covered these pieces already.
            _ => order.money(order.price_of(&lines).min(order.refundable())),
        };
        let mut adjustment = Self {
            id: ReturnId::new(),
            order: order.id,
            cause,
            state: cause.running(),
            step: None,
            goods: next.goods_of(&lines),
            lines,
            refund,
            reason: wish.reason.to_owned(),
            time: time.unwrap_or(now),
            create_time: now,
            attempts: 0,
            settled_manually: false,
        };
        let position = saga::begin(None, adjustment.state, adjustment.facts())?;
        let entries = adjustment.go(position, wish.actor);
        next.pending_returns += 1;
        next.refunding += refund.minor;
        next.take_adjustment(&adjustment, entries.len(), now);
        *order = next;
        Ok(Ok((adjustment, entries)))
    }

    /// The action of the saga's next step; `None` at the end.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        match self.step? {
            Step::Restock => Some(Action::Restock { request_id: self.id.to_string(), goods: self.goods.clone() }),
            Step::Refund => Some(Action::Refund {
                payment: super::order::payment_key(self.order),
                key: self.id.to_string(),
                amount: self.refund,
            }),
            _ => None,
        }
    }

    /// Advances the saga after an answer to the current step.
    ///
    /// # Errors
    /// If no saga runs, or the table has no such transition. The adjustment is then unchanged.
    pub fn advance(&mut self, answer: &Answer, _now: DateTime<Utc>) -> Result<Vec<Entry>, Illegal> {
        let outcome = answer.outcome();
        let step = self.step.ok_or(Illegal::idle(self.state, outcome))?;
        let position = saga::advance(self.state, step, outcome, self.facts())?;
        self.attempts = 0;
        Ok(self.go(position, SERVICE_ACTOR))
    }

    /// Advances the saga as if the step had been answered; see [`Order::finish`].
    ///
    /// # Errors
    /// If the adjustment is not at this step, or the step cannot be done manually. The adjustment is then unchanged.
    pub fn finish(&mut self, step: Step, wish: Wish<'_>) -> Result<Vec<Entry>, Illegal> {
        Illegal::unless_manual(self.state, self.step, step)?;
        let position = saga::advance(self.state, step, Outcome::Done, self.facts())?;
        (self.attempts, self.settled_manually) = (0, true);
        let mut entries = vec![Entry::finished_manually(wish)];
        entries.extend(self.go(position, wish.actor));
        Ok(entries)
    }

    /// The resource name of the return.
    #[must_use]
    pub fn return_name(&self) -> String {
        format!("{}/{}", self.order.name(), self.id.name())
    }

    /// The resource name of the refund.
    #[must_use]
    pub fn refund_name(&self) -> String {
        format!("{}/{}", self.order.name(), RefundId::from_uuid(self.id.uuid()).name())
    }

    fn go(&mut self, position: Position, actor: &str) -> Vec<Entry> {
        self.state = position.state;
        self.step = position.step;
        let entry = |kind| match kind {
            Kind::ReturnRequested | Kind::ItemsCancelRequested | Kind::RefundRequested => {
                Entry::new(kind, actor, self.reason.as_str())
            }
            Kind::PaymentRefunded => Entry::new(kind, actor, self.refund.to_string()),
            _ => Entry::new(kind, SERVICE_ACTOR, ""),
        };
        position.kinds.into_iter().map(entry).collect()
    }

    fn facts(&self) -> Facts {
        Facts { goods: !self.goods.is_empty(), held: false, authorized: false, money: self.refund.minor > 0 }
    }
}
