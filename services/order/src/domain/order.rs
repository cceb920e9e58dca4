//! An order and its transitions. Its state, money and step change only through these methods.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use souk_common::{
    ids::{OrderId, UserId},
    money::{Currency, Money},
};

use super::{
    Action, Adjustment, Answer, Entry, Facts, Goods, Illegal, Kind, Line, Outcome, Payment, PaymentState, Pieces,
    Placement, Position, Rejection, RejectionReason, SERVICE_ACTOR, State, Step, Token, saga,
};

/// An order with its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The order's id.
    pub id: OrderId,
    /// The customer who owns the order.
    pub customer: UserId,
    /// The state of the order.
    pub state: State,
    /// The next step of the order's saga; `None` if none runs.
    pub step: Option<Step>,
    /// The lines, by number.
    pub lines: Vec<Line>,
    /// The currency of all amounts of the order.
    pub currency: Currency,
    /// Sum of the lines, in minor units.
    pub total: i64,
    /// The refunded amount, in minor units.
    pub refunded: i64,
    /// The amount that running adjustments will refund, in minor units.
    pub refunding: i64,
    /// The delivery address.
    pub address: Address,
    /// The order's id in another system.
    pub external_id: Option<String>,
    /// Why the order could not be placed. Set as soon as that is certain.
    pub rejection: Option<Rejection>,
    /// The payment, once an authorisation was tried.
    pub payment: Option<Payment>,
    /// The token for the payment provider, until the provider has answered. Never log it.
    pub payment_token: Option<Token>,
    /// When the customer placed the order.
    pub place_time: DateTime<Utc>,
    /// When the order was recorded.
    pub create_time: DateTime<Utc>,
    /// When the order last changed.
    pub update_time: DateTime<Utc>,
    /// The version of the order: counts its changes, from 1.
    pub version: i64,
    /// The number of timeline entries so far.
    pub entries: i32,
    /// The number of running adjustments.
    pub pending_returns: i32,
    /// Failed tries since the saga's last completed step.
    pub attempts: i32,
}

/// A delivery address. Its fields are those of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the contract says what each means")]
pub struct Address {
    pub recipient: String,
    pub address_lines: Vec<String>,
    pub locality: String,
    pub administrative_area: String,
    pub postal_code: String,
    pub region_code: String,
}

/// A requested change of an order: who asks for it, and why.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The resource name of the user.
    pub actor: &'a str,
    /// The reason, in the user's words.
    pub reason: &'a str,
    /// The etag of the order that the user saw. Empty: any etag.
    pub etag: &'a str,
}

impl Order {
    /// Creates an order, with the first entry of its timeline.
    ///
    /// # Errors
    /// Never, unless the saga's table is wrong.
    pub fn place(placement: Placement, now: DateTime<Utc>) -> Result<(Self, Vec<Entry>), Illegal> {
        let mut order = Self {
            id: placement.id,
            customer: placement.customer,
            state: State::Pending,
            step: None,
            currency: placement.priced.total.currency,
            total: placement.priced.total.minor,
            lines: placement.priced.lines,
            refunded: 0,
            refunding: 0,
            address: placement.address,
            external_id: placement.external_id,
            rejection: None,
            payment: None,
            payment_token: Some(Token(placement.payment_token)),
            place_time: placement.place_time.unwrap_or(now),
            create_time: now,
            update_time: now,
            version: 0,
            entries: 0,
            pending_returns: 0,
            attempts: 0,
        };
        let position = saga::begin(None, State::Pending, order.facts())?;
        let entries = order.go(position, &placement.actor, "", now);
        Ok((order, entries))
    }

    /// The action of the saga's next step; `None` if none runs.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        let payment = self.payment_key();
        let action = match self.step? {
            Step::Reserve => Action::Reserve { goods: self.goods() },
            Step::Authorize => Action::Authorize {
                payment,
                amount: self.money(self.total),
                token: self.payment_token.clone().map(|Token(token)| token)?,
            },
            Step::Commit => Action::Commit,
            Step::Capture => Action::Capture { payment },
            Step::Release => Action::Release,
            Step::Void => Action::Void { payment },
            Step::Restock => {
                Action::Restock { request_id: format!("{}-{payment}", self.purpose()), goods: self.goods() }
            }
            Step::Refund => Action::Refund {
                key: format!("{}-{payment}", self.purpose()),
                payment,
                amount: self.money(self.total - self.refunded),
            },
        };
        Some(action)
    }

    /// Advances the saga after an answer to the current step. `unclear`: an earlier try of this step got no answer and may
    /// still take effect, and so may later steps that were not stored ([`Saga::may_wait`](super::Saga::may_wait)). Has
    /// the name of the payment provider in use.
    ///
    /// # Errors
    /// If no saga runs, or the table has no such transition. The order is then unchanged.
    pub fn advance(
        &mut self,
        answer: &Answer,
        unclear: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Entry>, Illegal> {
        let step = self.step.ok_or(Illegal::idle(self.state, answer.outcome()))?;
        let mut next = self.clone();
        next.take_in(step, answer);
        let mut facts = next.facts();
        if (step, answer.outcome()) == (Step::Reserve, Outcome::OutOfStock) {
            facts.held = unclear.is_some();
            if let Some(provider) = unclear {
                next.may_be_authorized(provider);
            }
        }
        let position = saga::advance(self.state, step, answer.outcome(), facts)?;
        let detail = match answer {
            Answer::Authorized { reference, .. } => reference.clone(),
            _ => String::new(),
        };
        let entries = next.go(position, SERVICE_ACTOR, &detail, now);
        *self = next;
        Ok(entries)
    }

    /// Abandons an order that is being placed and whose capture was not requested. `provider` is the name of the
    /// payment provider in use.
    ///
    /// # Errors
    /// If the table has no such transition. The order is then unchanged.
    pub fn abandon(&mut self, wish: Wish<'_>, provider: &str, now: DateTime<Utc>) -> Result<Vec<Entry>, Illegal> {
        let step = self.step.ok_or(Illegal::idle(self.state, Outcome::Abandoned))?;
        let mut next = self.clone();
        next.attempts = 0;
        next.payment_token = None;
        next.rejection = Some(Rejection {
            reason: RejectionReason::OrderAbandoned,
            message: ["abandoned by an operator", wish.reason].join(": ").trim_end_matches(": ").to_owned(),
            items: Vec::new(),
        });
        if matches!(step, Step::Reserve | Step::Authorize) {
            next.may_be_authorized(provider);
        }
        let position = saga::advance(self.state, step, Outcome::Abandoned, next.facts())?;
        let entries = next.go(position, wish.actor, wish.reason, now);
        *self = next;
        Ok(entries)
    }

    /// Advances the saga as if the step had been answered: an operator did it outside of souk.
    ///
    /// # Errors
    /// If the order is not at this step, or the step cannot be done manually. The order is then unchanged.
    pub fn finish(&mut self, step: Step, wish: Wish<'_>, now: DateTime<Utc>) -> Result<Vec<Entry>, Illegal> {
        Illegal::unless_manual(self.state, self.step, step)?;
        let mut next = self.clone();
        let mut entries = next.record(Entry::finished_manually(wish), now);
        next.take_in(step, &Answer::Done);
        if let Some(payment) = &mut next.payment {
            match step {
                Step::Refund => payment.refunded_manually += self.total - self.refunded,
                _ => payment.settled_manually = true,
            }
        }
        let position = saga::advance(self.state, step, Outcome::Done, next.facts())?;
        entries.extend(next.go(position, wish.actor, "", now));
        *self = next;
        Ok(entries)
    }

    /// Applies an answer to the order's fields, except its step.
    fn take_in(&mut self, step: Step, answer: &Answer) {
        self.attempts = 0;
        match answer {
            Answer::Authorized { provider, reference } => {
                self.payment = Some(Payment::new(provider, reference, PaymentState::Authorized));
            }
            Answer::Refused { provider, message } => {
                self.payment.get_or_insert_with(|| Payment::new(provider, "", PaymentState::Declined));
                self.rejection = Some(Rejection {
                    reason: RejectionReason::PaymentDeclined,
                    message: message.clone(),
                    items: Vec::new(),
                });
            }
            Answer::OutOfStock { message, items } => {
                self.rejection = Some(Rejection {
                    reason: RejectionReason::OutOfStock,
                    message: message.clone(),
                    items: items.clone(),
                });
            }
            Answer::Done => match step {
                Step::Capture => self.set_payment(PaymentState::Captured),
                Step::Void => self.set_payment(PaymentState::Voided),
                Step::Refund => {
                    self.refunded = self.total;
                    self.set_payment(PaymentState::Refunded);
                }
                _ => {}
            },
            Answer::AlreadyCommitted => {}
        }
        if self.payment.is_some() || self.rejection.is_some() {
            self.payment_token = None;
        }
    }

    /// Records that an authorisation may have succeeded without an answer, so that the payment is voided.
    fn may_be_authorized(&mut self, provider: &str) {
        self.payment = Some(Payment::new(provider, "", PaymentState::Authorized));
    }

    fn set_payment(&mut self, state: PaymentState) {
        if let Some(payment) = &mut self.payment {
            payment.state = state;
        }
    }

    pub(super) fn go(&mut self, position: Position, actor: &str, detail: &str, now: DateTime<Utc>) -> Vec<Entry> {
        self.state = position.state;
        self.step = position.step;
        self.version += 1;
        self.update_time = now;
        if self.state == State::Cancelled {
            for line in &mut self.lines {
                line.cancelled = line.quantity - line.returned;
            }
        }
        let entries: Vec<Entry> = position
            .kinds
            .into_iter()
            .map(|kind| Entry {
                kind,
                actor: match kind {
                    Kind::Confirmed | Kind::Cancelled | Kind::Rejected => SERVICE_ACTOR.to_owned(),
                    _ => actor.to_owned(),
                },
                detail: match (kind, &self.rejection) {
                    (Kind::Rejected, Some(rejection)) => rejection.message.clone(),
                    (Kind::PaymentAuthorized | Kind::CancelRequested | Kind::Abandoned, _) => detail.to_owned(),
                    _ => String::new(),
                },
                internal: kind == Kind::Abandoned,
            })
            .collect();
        self.entries += i32::try_from(entries.len()).unwrap_or(i32::MAX);
        entries
    }

    /// Applies the progress of an adjustment: its new timeline entries and, at its end, its refund.
    pub fn take_adjustment(&mut self, adjustment: &Adjustment, entries: usize, now: DateTime<Utc>) {
        if adjustment.state == State::Completed {
            self.pending_returns -= 1;
            self.refunding -= adjustment.refund.minor;
            self.refunded += adjustment.refund.minor;
            if let (true, Some(payment)) = (adjustment.settled_manually, &mut self.payment) {
                payment.refunded_manually += adjustment.refund.minor;
            }
            if self.refunded == self.total && adjustment.refund.minor > 0 {
                self.set_payment(PaymentState::Refunded);
            }
        }
        self.count(entries, now);
    }

    /// Records a timeline entry outside of any saga.
    pub fn record(&mut self, entry: Entry, now: DateTime<Utc>) -> Vec<Entry> {
        self.count(1, now);
        vec![entry]
    }

    fn count(&mut self, entries: usize, now: DateTime<Utc>) {
        self.entries += i32::try_from(entries).unwrap_or(i32::MAX);
        self.version += 1;
        self.update_time = now;
    }

    /// The amount that can still be refunded, in minor units.
    #[must_use]
    pub fn refundable(&self) -> i64 {
        self.total - self.refunded - self.refunding
    }

    /// Sums the given pieces by product, if their stock is tracked.
    #[must_use]
    pub fn goods_of(&self, pieces: &[Pieces]) -> Vec<Goods> {
        let product = |number| {
            let line = self.lines.iter().find(|line| line.number == number)?;
            line.tracked.then_some(line.product)
        };
        Goods::sum(pieces.iter().filter_map(|piece| Some((product(piece.number)?, piece.quantity))))
    }

    /// The key of the order's payment at the payment provider.
    #[must_use]
    pub fn payment_key(&self) -> String {
        payment_key(self.id)
    }

    /// The etag. It changes with every change of the order.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// An amount in the order's currency.
    #[must_use]
    pub fn money(&self, minor: i64) -> Money {
        Money::new(minor, self.currency)
    }

    /// The tracked goods that the customer has, or will get.
    #[must_use]
    pub fn goods(&self) -> Vec<Goods> {
        let lines = self.lines.iter().filter(|line| line.tracked);
        Goods::sum(lines.map(|line| (line.product, line.sold())))
    }

    fn purpose(&self) -> &'static str {
        if self.state == State::Pending { "reject" } else { "cancel" }
    }

    pub(super) fn facts(&self) -> Facts {
        let goods = self.lines.iter().any(|line| line.tracked && line.sold() > 0);
        Facts {
            goods,
            held: goods,
            authorized: self.payment.as_ref().is_some_and(|payment| payment.state == PaymentState::Authorized),
            money: self.total > self.refunded,
        }
    }
}

/// The key of an order's payment at the payment provider: the digits of the order's id. SQL can compute it, too.
pub(super) fn payment_key(order: OrderId) -> String {
    order.uuid().simple().to_string()
}
