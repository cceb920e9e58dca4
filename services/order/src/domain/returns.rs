//! Goods of an order that come back, and the money for them.

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ReturnId},
    money::Money,
};

use super::{
    Action, Answer, Entry, Facts, Fault, Goods, Illegal, Kind, Order, Position, SERVICE_ACTOR, State, Step, saga,
};

/// Goods of an order that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// Its id.
    pub id: ReturnId,
    /// The order.
    pub order: OrderId,
    /// How far it has come.
    pub state: State,
    /// What its saga does next; `None` at its end.
    pub step: Option<Step>,
    /// What came back, by line; each line once.
    pub lines: Vec<ReturnLine>,
    /// Of that, goods whose stock is counted.
    pub goods: Vec<Goods>,
    /// What is given back for it.
    pub refund: Money,
    /// Why.
    pub reason: String,
    /// When it happened.
    pub return_time: DateTime<Utc>,
    /// When souk took it down.
    pub create_time: DateTime<Utc>,
    /// How often its saga gave up for a while since its last step.
    pub attempts: i32,
}

/// Pieces of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnLine {
    /// The order's line, from 1.
    pub number: i32,
    /// Pieces, at least 1.
    pub quantity: i64,
}

/// Why goods cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReturnRefusal {
    /// The order is being placed: try again.
    Busy,
    /// The order was never paid, or is cancelled.
    State(State),
    /// What was asked for does not fit the order.
    Faults(Vec<Fault>),
}

impl Return {
    /// Takes a return down: writes its pieces into the order's lines, so that none can come back twice.
    ///
    /// # Errors
    /// Why not, where it cannot be; an [`Illegal`] only where the saga's table is wrong. The order is then
    /// unchanged.
    pub fn begin(
        order: &mut Order,
        items: &[ReturnLine],
        (actor, reason): (&str, &str),
        return_time: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<Result<(Self, Vec<Entry>), ReturnRefusal>, Illegal> {
        match order.state {
            State::Confirmed => {}
            State::Pending => return Ok(Err(ReturnRefusal::Busy)),
            state => return Ok(Err(ReturnRefusal::State(state))),
        }
        let mut next = order.clone();
        let mut faults = Vec::new();
        let mut lines: Vec<ReturnLine> = Vec::new();
        let mut refund = 0;
        for (index, item) in items.iter().enumerate() {
            let field = |name: &str| format!("items[{index}].{name}");
            let Some(line) = next.lines.iter_mut().find(|line| line.number == item.number) else {
                let message = format!("must be a line of the order, 1 to {}", order.lines.len());
                faults.push(Fault::new(field("line_number"), message));
                continue;
            };
            let left = line.quantity - line.returned;
            if item.quantity > left {
                let message = format!("must be at most {left}: the pieces that have not come back");
                faults.push(Fault::new(field("quantity"), message));
                continue;
            }
            line.returned += item.quantity;
            // Cannot overflow: no more than the line's total.
            refund += item.quantity * line.unit_price;
            match lines.iter_mut().find(|seen| seen.number == item.number) {
                Some(seen) => seen.quantity += item.quantity,
                None => lines.push(*item),
            }
        }
        if !faults.is_empty() {
            return Ok(Err(ReturnRefusal::Faults(faults)));
        }
        let goods = next.goods_of(&lines);
        let mut back = Self {
            id: ReturnId::new(),
            order: order.id,
            state: State::Returning,
            step: None,
            lines,
            goods,
            refund: order.money(refund),
            reason: reason.to_owned(),
            return_time: return_time.unwrap_or(now),
            create_time: now,
            attempts: 0,
        };
        let position = saga::begin(State::Returning, back.facts())?;
        let entries = back.go(position, actor);
        next.pending_returns += 1;
        next.take_return(&back, entries.len(), now);
        *order = next;
        Ok(Ok((back, entries)))
    }

    /// What the saga does next; `None` at its end.
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

    /// Goes on after the step was answered so.
    ///
    /// # Errors
    /// Where no saga runs, or the table has no such transition. The return is then unchanged.
    pub fn advance(&mut self, answer: &Answer, _now: DateTime<Utc>) -> Result<Vec<Entry>, Illegal> {
        let outcome = answer.outcome();
        let step = self.step.ok_or(Illegal::idle(self.state, outcome))?;
        let position = saga::advance(self.state, step, outcome, self.facts())?;
        self.attempts = 0;
        Ok(self.go(position, SERVICE_ACTOR))
    }

    /// Its resource name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.order.name(), self.id.name())
    }

    fn go(&mut self, position: Position, actor: &str) -> Vec<Entry> {
        self.state = position.state;
        self.step = position.step;
        position
            .kinds
            .into_iter()
            .map(|kind| Entry {
                kind,
                actor: match kind {
                    Kind::ReturnRequested => actor.to_owned(),
                    _ => SERVICE_ACTOR.to_owned(),
                },
                detail: match kind {
                    Kind::ReturnRequested => self.reason.clone(),
                    Kind::PaymentRefunded => self.refund.to_string(),
                    _ => String::new(),
                },
            })
            .collect()
    }

    fn facts(&self) -> Facts {
        Facts { goods: !self.goods.is_empty(), held: false, authorized: false, money: self.refund.minor > 0 }
    }
}
