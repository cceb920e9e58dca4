//! A payment provider in memory: the simulated provider's rules on payments that are kept in a map.

use std::collections::{BTreeMap, HashMap};

use futures::future::BoxFuture;
use souk_common::money::Money;
use tokio::time::sleep;

use super::{
    wire::{Peer, Wire},
    world::{Planted, State},
};
use crate::{
    domain::Action,
    payment::{
        Notice, PaymentError, PaymentProvider, WebhookError,
        simulated::{Answer, Ask, Declined, Line, What, answer},
    },
    store::payments::{Booked, BookedState},
};

/// The books of the payment provider.
#[derive(Default)]
pub struct Bank {
    /// Payments by key.
    pub payments: HashMap<String, Booked>,
    /// Refunds by key, with the key of their payment and the amount.
    pub refunds: BTreeMap<String, (String, i64)>,
    /// Amounts that operators captured by bank transfer, by the payment's key.
    pub manual_captures: BTreeMap<String, i64>,
    /// Amounts that operators refunded by bank transfer: by the refund's key, with the key of the payment.
    pub manual_refunds: BTreeMap<String, (String, i64)>,
}

impl State {
    fn pay(&mut self, ask: &Ask) -> Answer {
        let now = self.now();
        let known = self.bank.payments.contains_key(&ask.key);
        let answered = answer(&mut self.bank.payments, ask, now);
        let booked = self.bank.payments.get_mut(&ask.key);
        match (self.planted, &ask.what, booked) {
            (Some(Planted::CaptureFirst), What::Authorize { .. }, Some(booked))
                if booked.state == BookedState::Authorized =>
            {
                booked.state = BookedState::Captured;
            }
            (Some(Planted::VoidForgotten), What::Void, _) if !known => {
                self.bank.payments.remove(&ask.key);
            }
            _ => {}
        }
        match (&ask.what, &answered) {
            (What::Capture, Err(_)) => self.count("refused", "capture"),
            (What::Authorize { .. }, Ok((booked, _))) if booked.state == BookedState::Declined => {
                self.count("refused", "authorize");
            }
            _ => {}
        }
        answered
    }

    fn give_back(&mut self, key: &str, refund: &str, minor: i64) -> Result<(), Declined> {
        let Some(booked) = self.bank.payments.get_mut(key) else { return Err(Declined("there is no such payment")) };
        if self.bank.refunds.contains_key(refund) && self.planted != Some(Planted::RefundAgain) {
            return Ok(());
        }
        if self.bank.manual_refunds.contains_key(refund) {
            return Err(Declined("the account is closed"));
        }
        booked.refund(minor)?;
        self.bank.refunds.insert(refund.to_owned(), (key.to_owned(), minor));
        Ok(())
    }
}

impl State {
    /// An operator does the step of a saga by bank transfer, if the provider has not done it. The provider is kept from
    /// doing it later.
    pub fn settle_manually(&mut self, action: &Action, total: i64) {
        let now = self.now();
        let Bank { payments, refunds, manual_captures, manual_refunds } = &mut self.bank;
        match action {
            Action::Capture { payment } | Action::Void { payment } => {
                let ask = Ask { key: payment.clone(), what: What::Void };
                // The void is refused if the payment was captured.
                let let_go = answer(payments, &ask, now).is_ok();
                match (action, let_go) {
                    (Action::Capture { .. }, true) => drop(manual_captures.insert(payment.clone(), total)),
                    (Action::Void { .. }, false) => {
                        manual_refunds.insert(payment.clone(), (payment.clone(), total));
                    }
                    _ => {}
                }
            }
            Action::Refund { payment, key, amount } if !refunds.contains_key(key) => {
                manual_refunds.insert(key.clone(), (payment.clone(), amount.minor));
            }
            _ => {}
        }
    }
}

impl Wire {
    async fn ask_bank(&self, op: &'static str, key: &str, what: What) -> Result<Booked, PaymentError> {
        let ask = Ask { key: key.to_owned(), what };
        match self.call((Peer::Bank, op), key, move |state| state.pay(&ask)).await {
            Some(answer) => match answer? {
                (booked, Line::Up) => Ok(booked),
                (_, Line::Lost) => Err(PaymentError::Unanswered("timed out".into())),
            },
            None => Err(PaymentError::Unanswered("no answer".into())),
        }
    }
}

impl PaymentProvider for Wire {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn authorize<'a>(
        &'a self,
        key: &'a str,
        amount: Money,
        token: &'a str,
    ) -> BoxFuture<'a, Result<String, PaymentError>> {
        Box::pin(async move {
            let (expires_at, slow) = {
                let mut state = self.world.state();
                (state.now() + state.plan.hold, state.dice.millis(1_000..8_000))
            };
            if token == "tok_slow" {
                sleep(slow).await;
            }
            let new = Booked::new(key, amount, token, expires_at);
            let booked = self.ask_bank("authorize", key, What::Authorize { new }).await?;
            match booked.state {
                BookedState::Declined => Err(PaymentError::Declined { message: booked.message }),
                _ => Ok(booked.reference),
            }
        })
    }

    fn capture<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move { self.ask_bank("capture", key, What::Capture).await.map(drop) })
    }

    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move { self.ask_bank("void", key, What::Void).await.map(drop) })
    }

    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move {
            let (payment, refund) = (key.to_owned(), refund.to_owned());
            let give = move |state: &mut State| state.give_back(&payment, &refund, amount.minor);
            match self.call((Peer::Bank, "refund"), key, give).await {
                Some(answer) => Ok(answer?),
                None => Err(PaymentError::Unanswered("no answer".into())),
            }
        })
    }

    fn webhook<'a>(&'a self, _: &'a [u8], _: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>> {
        Box::pin(async { Err(WebhookError::Unexpected) })
    }
}
