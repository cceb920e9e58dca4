//! A payment provider that takes no money: the payment's token says what happens. It keeps books of its own, in
//! transactions of its own, as another company would.
//!
//! | token | what happens |
//! |---|---|
//! | `tok_approved` | all goes well |
//! | `tok_declined` | the payment is declined |
//! | `tok_slow` | approved, after a while |
//! | `tok_fails_once` | the first try fails without effect, the next is approved |
//! | `tok_lost_answer` | approved, but the first answers to authorising and to capturing are lost |
//! | any other | declined |

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use souk_common::{
    db::{self, Db, DbError},
    money::Money,
};

use super::{PaymentError, PaymentProvider};
use crate::store::now;

mod postgres {
    pub(super) use crate::store::postgres::simulated as queries;
}
mod sqlite {
    pub(super) use crate::store::sqlite::simulated as queries;
}

/// A payment in the provider's books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Booked {
    pub key: String,
    pub reference: String,
    pub behaviour: String,
    pub state: BookedState,
    pub currency: String,
    pub amount: i64,
    pub refunded: i64,
    pub message: String,
    pub expires_at: DateTime<Utc>,
    pub authorize_calls: i32,
    pub capture_calls: i32,
}

/// How far a payment in the provider's books has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BookedState {
    New,
    Authorized,
    Captured,
    Voided,
    Declined,
}

impl BookedState {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Authorized => "AUTHORIZED",
            Self::Captured => "CAPTURED",
            Self::Voided => "VOIDED",
            Self::Declined => "DECLINED",
        }
    }

    /// The table allows no other words.
    pub(crate) fn from_code(code: &str) -> Self {
        match code {
            "AUTHORIZED" => Self::Authorized,
            "CAPTURED" => Self::Captured,
            "VOIDED" => Self::Voided,
            "DECLINED" => Self::Declined,
            _ => Self::New,
        }
    }
}

/// Whether an answer reaches whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Up,
    Lost,
}

const BEHAVIOURS: [&str; 5] = ["tok_approved", "tok_declined", "tok_slow", "tok_fails_once", "tok_lost_answer"];

impl Booked {
    fn new(key: &str, amount: Money, token: &str, lifetime: TimeDelta) -> Self {
        let behaviour = BEHAVIOURS.into_iter().find(|known| *known == token);
        Self {
            key: key.to_owned(),
            reference: format!("sim_{key}"),
            // An unknown token may be a real one: it is not written down.
            behaviour: behaviour.unwrap_or("unknown").to_owned(),
            state: BookedState::New,
            currency: amount.currency.code().to_owned(),
            amount: amount.minor,
            refunded: 0,
            message: String::new(),
            expires_at: now() + lifetime,
            authorize_calls: 0,
            capture_calls: 0,
        }
    }

    fn authorize(&mut self) -> Line {
        self.authorize_calls = self.authorize_calls.saturating_add(1);
        let first = self.authorize_calls == 1;
        if self.state == BookedState::New {
            match self.behaviour.as_str() {
                "tok_fails_once" if first => return Line::Lost,
                "tok_declined" => self.decline("the card was declined"),
                "unknown" => self.decline("unknown payment token"),
                _ => self.state = BookedState::Authorized,
            }
        }
        self.first_answer(first)
    }

    fn capture(&mut self, now: DateTime<Utc>) -> Result<Line, PaymentError> {
        match self.state {
            BookedState::Authorized if self.expires_at <= now => {
                Err(PaymentError::declined("the authorisation of the payment has expired"))
            }
            BookedState::Authorized | BookedState::Captured => {
                self.state = BookedState::Captured;
                self.capture_calls = self.capture_calls.saturating_add(1);
                Ok(self.first_answer(self.capture_calls == 1))
            }
            _ => Err(PaymentError::declined("no payment is authorised")),
        }
    }

    fn void(&mut self) -> Result<(), PaymentError> {
        match self.state {
            BookedState::Captured => Err(PaymentError::declined("the payment was taken already")),
            BookedState::New | BookedState::Authorized => {
                self.state = BookedState::Voided;
                Ok(())
            }
            BookedState::Voided | BookedState::Declined => Ok(()),
        }
    }

    fn refund(&mut self, amount: i64) -> Result<(), PaymentError> {
        let left = self.amount - self.refunded;
        if self.state != BookedState::Captured || amount > left {
            return Err(PaymentError::declined("more would go back than was taken"));
        }
        self.refunded += amount;
        Ok(())
    }

    fn decline(&mut self, message: &str) {
        self.state = BookedState::Declined;
        self.message = message.to_owned();
    }

    fn first_answer(&self, first: bool) -> Line {
        if first && self.behaviour == "tok_lost_answer" { Line::Lost } else { Line::Up }
    }
}

/// How the simulated provider behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long `tok_slow` takes.
    pub slow_delay: Duration,
    /// How long an authorisation can be captured.
    pub authorization_lifetime: Duration,
}

/// The simulated provider.
#[derive(Clone, Debug)]
pub struct Simulated {
    db: Db,
    settings: Settings,
}

impl Simulated {
    /// With its books in this database.
    #[must_use]
    pub fn new(db: Db, settings: Settings) -> Self {
        Self { db, settings }
    }

    async fn do_authorize(&self, key: &str, amount: Money, token: &str) -> Result<String, PaymentError> {
        if token == "tok_slow" {
            tokio::time::sleep(self.settings.slow_delay).await;
        }
        let lifetime = TimeDelta::from_std(self.settings.authorization_lifetime).unwrap_or(TimeDelta::days(7));
        let (booked, line) = self
            .change(key, |found| {
                let mut booked = match found {
                    Some(booked) => booked.clone(),
                    None => Booked::new(key, amount, token, lifetime),
                };
                let line = booked.authorize();
                Ok((booked, line))
            })
            .await?;
        answer(line)?;
        match booked.state {
            BookedState::Declined => Err(PaymentError::declined(booked.message)),
            _ => Ok(booked.reference),
        }
    }

    async fn do_refund(&self, key: &str, refund: &str, amount: Money) -> Result<(), PaymentError> {
        let minor = amount.minor;
        let result = db::write!(self.db, |conn, q| -> Result<_, DbError> {
            if q::refund(conn, refund).await?.is_some() {
                return Ok(Ok(true));
            }
            let Some(before) = q::find(conn, key).await? else {
                return Ok(Err(PaymentError::declined("there is no such payment")));
            };
            let mut after = before.clone();
            if let Err(declined) = after.refund(minor) {
                return Ok(Err(declined));
            }
            // Both or none: where either is not written, someone else did the same at the same time.
            if !q::put(conn, Some(&before), &after).await? {
                return Ok(Ok(false));
            }
            q::add_refund(conn, refund, key, minor).await.map(Ok)
        });
        match result.map_err(unanswered)?? {
            true => Ok(()),
            false => Err(collided()),
        }
    }

    /// Changes a payment in the books in one transaction.
    async fn change<T>(
        &self,
        key: &str,
        change: impl Fn(Option<&Booked>) -> Result<(Booked, T), PaymentError> + Send + Sync,
    ) -> Result<(Booked, T), PaymentError> {
        let result = db::write!(self.db, |conn, q| -> Result<_, DbError> {
            let before = q::find(conn, key).await?;
            let (after, answer) = match change(before.as_ref()) {
                Ok(changed) => changed,
                Err(declined) => return Ok(Err(declined)),
            };
            if before.as_ref() != Some(&after) && !q::put(conn, before.as_ref(), &after).await? {
                return Ok(Err(collided()));
            }
            Ok(Ok((after, answer)))
        });
        result.map_err(unanswered)?
    }
}

impl PaymentProvider for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn authorize<'a>(
        &'a self,
        key: &'a str,
        amount: Money,
        token: &'a str,
    ) -> BoxFuture<'a, Result<String, PaymentError>> {
        Box::pin(self.do_authorize(key, amount, token))
    }

    fn capture<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move {
            let (_, line) = self
                .change(key, |found| {
                    let mut booked = existing(found)?;
                    let line = booked.capture(now())?;
                    Ok((booked, line))
                })
                .await?;
            answer(line)
        })
    }

    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move {
            self.change(key, |found| {
                let mut booked = existing(found)?;
                booked.void()?;
                Ok((booked, ()))
            })
            .await?;
            Ok(())
        })
    }

    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(self.do_refund(key, refund, amount))
    }
}

fn existing(found: Option<&Booked>) -> Result<Booked, PaymentError> {
    found.cloned().ok_or_else(|| PaymentError::declined("there is no such payment"))
}

fn answer(line: Line) -> Result<(), PaymentError> {
    match line {
        Line::Up => Ok(()),
        Line::Lost => Err(PaymentError::Unanswered("timed out".into())),
    }
}

fn unanswered(error: DbError) -> PaymentError {
    PaymentError::Unanswered(error.into())
}

fn collided() -> PaymentError {
    PaymentError::Unanswered("the same payment was changed at the same moment".into())
}
