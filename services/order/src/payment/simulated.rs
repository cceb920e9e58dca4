//! A payment provider that takes no money: the payment's token determines the result. It keeps its own records,
//! in its own transactions, as another company would.
//!
//! | token | what happens |
//! |---|---|
//! | `tok_approved` | all goes well |
//! | `tok_declined` | the payment is declined |
//! | `tok_slow` | approved, after a while |
//! | `tok_fails_once` | the first try fails without effect, the next is approved |
//! | `tok_lost_answer` | approved, but the first answers to authorising and to capturing are lost |
//! | any other | declined |

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use souk_common::money::Money;
use souk_store::{
    coalesce::{BatchError, Coalescer, Limits},
    db::{self, Db, DbError, Failure},
};

use super::{Notice, PaymentError, PaymentProvider, WebhookError};
use crate::store::{
    now,
    payments::{Booked, BookedState},
    postgres, sqlite,
};

/// True if the response reaches the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Up,
    Lost,
}

const BEHAVIOURS: [&str; 5] = ["tok_approved", "tok_declined", "tok_slow", "tok_fails_once", "tok_lost_answer"];

impl Booked {
    pub(crate) fn new(key: &str, amount: Money, token: &str, expires_at: DateTime<Utc>) -> Self {
        let behaviour = BEHAVIOURS.into_iter().find(|known| *known == token);
        Self {
            key: key.to_owned(),
            reference: format!("sim_{key}"),
            // An unknown token may be a real one, so it is not stored.
            behaviour: behaviour.unwrap_or("unknown").to_owned(),
            state: BookedState::New,
            currency: amount.currency.code().to_owned(),
            amount: amount.minor,
            refunded: 0,
            message: String::new(),
            expires_at,
            authorize_calls: 0,
            capture_calls: 0,
        }
    }

    /// A payment that was voided before it was authorised.
    fn unheld(key: &str, now: DateTime<Utc>) -> Self {
        Self {
            key: key.to_owned(),
            reference: format!("sim_{key}"),
            behaviour: "unknown".to_owned(),
            state: BookedState::New,
            // ISO 4217's code for no currency, because the currency is unknown.
            currency: "XXX".to_owned(),
            amount: 0,
            refunded: 0,
            message: String::new(),
            expires_at: now,
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

    fn capture(&mut self, now: DateTime<Utc>) -> Result<Line, Declined> {
        match self.state {
            BookedState::Authorized if self.expires_at <= now => {
                Err(Declined("the authorisation of the payment has expired"))
            }
            BookedState::Authorized | BookedState::Captured => {
                self.state = BookedState::Captured;
                self.capture_calls = self.capture_calls.saturating_add(1);
                Ok(self.first_answer(self.capture_calls == 1))
            }
            _ => Err(Declined("no payment is authorised")),
        }
    }

    fn void(&mut self) -> Result<(), Declined> {
        match self.state {
            BookedState::Captured => Err(Declined("the payment was captured already")),
            BookedState::New | BookedState::Authorized => {
                self.state = BookedState::Voided;
                Ok(())
            }
            BookedState::Voided | BookedState::Declined => Ok(()),
        }
    }

    pub(crate) fn refund(&mut self, amount: i64) -> Result<(), Declined> {
        let left = self.amount - self.refunded;
        if self.state != BookedState::Captured || amount > left {
            return Err(Declined("the refunds would exceed the captured amount"));
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

/// The settings of the simulated provider.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The delay of `tok_slow`.
    pub slow_delay: Duration,
    /// The time in which an authorisation can be captured.
    pub authorization_lifetime: Duration,
}

/// The simulated provider.
#[derive(Clone)]
pub struct Simulated {
    db: Db,
    settings: Settings,
    books: Coalescer<Ask, Answer, BookError>,
}

/// The provider's result: the payment after the request, and whether the response arrives.
pub(crate) type Answer = Result<(Booked, Line), Declined>;

/// A request about a payment. Waiting requests share a commit.
#[derive(Clone)]
pub(crate) struct Ask {
    pub key: String,
    pub what: What,
}

#[derive(Clone)]
pub(crate) enum What {
    Authorize { new: Booked },
    Capture,
    Void,
}

/// Why the provider refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declined(pub &'static str);

impl From<Declined> for PaymentError {
    fn from(Declined(message): Declined) -> Self {
        Self::Declined { message: message.to_owned() }
    }
}

/// Why a request was not recorded.
#[derive(Clone, Debug, thiserror::Error)]
enum BookError {
    #[error("the same payment was changed at the same moment")]
    Collided,
    #[error(transparent)]
    Db(Arc<DbError>),
}

impl From<DbError> for BookError {
    fn from(error: DbError) -> Self {
        Self::Db(Arc::new(error))
    }
}

impl From<diesel::result::Error> for BookError {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

impl Failure for BookError {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            Self::Collided => None,
        }
    }
}

impl BatchError for BookError {
    fn strikes_all(&self) -> bool {
        true
    }
}

impl Simulated {
    /// Creates the provider, which stores its records in this database. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(db: Db, settings: Settings) -> Self {
        let books = db.clone();
        let books = Coalescer::new("payments", Limits::default(), move |asks: Vec<Ask>| {
            let db = books.clone();
            async move { Ok(book(&db, &asks).await?.into_iter().map(Ok).collect()) }
        });
        Self { db, settings, books }
    }

    async fn ask(&self, key: &str, what: What) -> Result<Booked, PaymentError> {
        let ask = Ask { key: key.to_owned(), what };
        match self.books.submit(ask).await.map_err(unanswered)?? {
            (booked, Line::Up) => Ok(booked),
            (_, Line::Lost) => Err(unanswered("timed out")),
        }
    }

    async fn do_authorize(&self, key: &str, amount: Money, token: &str) -> Result<String, PaymentError> {
        if token == "tok_slow" {
            tokio::time::sleep(self.settings.slow_delay).await;
        }
        let lifetime = TimeDelta::from_std(self.settings.authorization_lifetime).unwrap_or(TimeDelta::days(7));
        let new = Booked::new(key, amount, token, now() + lifetime);
        let booked = self.ask(key, What::Authorize { new }).await?;
        match booked.state {
            BookedState::Declined => Err(PaymentError::Declined { message: booked.message }),
            _ => Ok(booked.reference),
        }
    }

    async fn do_refund(&self, key: &str, refund: &str, amount: Money) -> Result<(), PaymentError> {
        let minor = amount.minor;
        let keys = [key.to_owned()];
        let result = db::write!(self.db, |conn, q| -> Result<_, BookError> {
            let Some(mut booked) = q::simulated_payments(conn, &keys).await?.pop() else {
                return Ok(Err(Declined("there is no such payment")));
            };
            // The payment is locked, so no other transaction inserts the same refund meanwhile.
            if q::simulated_refund(conn, refund).await?.is_some() {
                return Ok(Ok(()));
            }
            if let Err(declined) = booked.refund(minor) {
                return Ok(Err(declined));
            }
            q::update_simulated_payments(conn, &[&booked]).await?;
            if !q::insert_simulated_refund(conn, refund, key, minor).await? {
                return Err(BookError::Collided);
            }
            Ok(Ok(()))
        });
        Ok(result.map_err(unanswered)??)
    }
}

/// Decides all requests in order, and writes their results in one transaction.
async fn book(db: &Db, asks: &[Ask]) -> Result<Vec<Answer>, BookError> {
    let keys: Vec<String> = asks.iter().map(|ask| ask.key.clone()).collect();
    db::write!(db, |conn, q| -> Result<_, BookError> {
        let found = q::simulated_payments(conn, &keys).await?;
        let before: HashMap<String, Booked> = found.into_iter().map(|booked| (booked.key.clone(), booked)).collect();
        let mut after = before.clone();
        let answers = asks.iter().map(|ask| answer(&mut after, ask, now())).collect();
        let (old, new): (Vec<&Booked>, Vec<&Booked>) =
            after.values().partition(|booked| before.contains_key(&booked.key));
        let changed: Vec<&Booked> = old.into_iter().filter(|booked| before.get(&booked.key) != Some(*booked)).collect();
        if !q::insert_simulated_payments(conn, &new).await? {
            return Err(BookError::Collided);
        }
        q::update_simulated_payments(conn, &changed).await?;
        Ok(answers)
    })
}

/// Decides one request on a payment, and records its result in `known`.
pub(crate) fn answer(known: &mut HashMap<String, Booked>, ask: &Ask, now: DateTime<Utc>) -> Answer {
    let booked = match &ask.what {
        What::Authorize { new } => known.entry(ask.key.clone()).or_insert_with(|| new.clone()),
        // The void of an unknown payment is recorded, so that a late authorisation has no effect.
        What::Void => known.entry(ask.key.clone()).or_insert_with(|| Booked::unheld(&ask.key, now)),
        What::Capture => known.get_mut(&ask.key).ok_or(Declined("there is no such payment"))?,
    };
    let line = match &ask.what {
        What::Authorize { .. } => booked.authorize(),
        What::Capture => booked.capture(now)?,
        What::Void => booked.void().map(|()| Line::Up)?,
    };
    Ok((booked.clone(), line))
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
        Box::pin(async move { self.ask(key, What::Capture).await.map(drop) })
    }

    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(async move { self.ask(key, What::Void).await.map(drop) })
    }

    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(self.do_refund(key, refund, amount))
    }

    fn webhook<'a>(&'a self, _: &'a [u8], _: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>> {
        Box::pin(async { Err(WebhookError::Unexpected) })
    }
}

fn unanswered(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PaymentError {
    PaymentError::Unanswered(error.into())
}
