//! Payments by Stripe: PaymentIntents with manual capture, over its HTTP API.
//!
//! souk knows of every amount that is held. It first creates an intent, which holds no money yet. Then it records the
//! intent as the order's payment. Only a recorded intent is confirmed. If a response is lost, the intent is known, and
//! souk reads its status. An intent can be confirmed, captured and cancelled only once, so these calls need no
//! idempotency keys. If a payment is voided or declined, souk cancels its intent permanently: a confirmation that
//! arrives later then holds no money.

mod amount;
mod api;
mod webhook;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use souk_common::money::Money;
use souk_store::db::{self, Db, DbError};

use self::api::{Api, ApiError, Intent, Refund, Refusal};
use super::{Notice, PaymentError, PaymentProvider, WebhookError};
use crate::{
    config::StripeSettings,
    store::{now, payments::Entry, postgres, sqlite},
};

/// The metadata key of the payment's key, on intents. `REFUND` is that of the refund's key, on refunds.
const ORDER: &str = "souk_order";
const REFUND: &str = "souk_refund";
/// The metadata key of the installation, on intents.
const INSTALLATION: &str = "souk_installation";
/// Card authorisations last seven days or less, so the search for them skips older intents.
const LONGEST_HOLD: chrono::TimeDelta = chrono::TimeDelta::days(8);

const GIVEN_UP: &str = "the payment was voided";

/// An authorisation at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Stripe's id of the intent.
    pub intent: String,
    /// The key of the payment that the intent was created for.
    pub payment: String,
    /// True if the intent is the one that is recorded for the payment.
    pub current: bool,
}

/// The payment provider Stripe.
pub struct Stripe {
    api: Api,
    db: Db,
    settings: StripeSettings,
}

impl Stripe {
    /// Creates the provider, which stores its records in this database.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(db: Db, settings: StripeSettings) -> Result<Self, reqwest::Error> {
        Ok(Self { api: Api::new(&settings)?, db, settings })
    }

    async fn find(&self, key: &str) -> Result<Option<Entry>, DbError> {
        db::read!(self.db, |conn, q| -> Result<_, DbError> { q::stripe_payment(conn, key).await })
    }

    /// Records an entry for a payment, unless there is one already. Returns the entry that is recorded then.
    async fn write(&self, key: &str, new: &Entry) -> Result<Entry, DbError> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, DbError> { q::insert_stripe_payment(conn, key, new, now).await })
    }

    async fn do_authorize(&self, key: &str, amount: Money, token: &str) -> Result<String, PaymentError> {
        let entry = match self.find(key).await.map_err(unanswered)? {
            Some(entry) => entry,
            None => self.open(key, amount, token).await?,
        };
        match entry {
            Entry::Free => Ok(String::new()),
            Entry::Closed(message) => Err(PaymentError::Declined { message }),
            Entry::Intent(id) => {
                let intent = match self.api.act(&id, "confirm").await {
                    // The reason does not matter: the intent's status decides.
                    Err(ApiError::Refused(_)) => self.api.intent(&id).await,
                    answered => answered,
                };
                self.confirmed(intent.map_err(unanswered)?).await
            }
        }
    }

    /// Creates an intent, which holds no money yet, and records it for the payment.
    async fn open(&self, key: &str, amount: Money, token: &str) -> Result<Entry, PaymentError> {
        let new = match amount::smallest_units(amount) {
            _ if amount.minor == 0 => Entry::Free,
            None => Entry::Closed(format!("Stripe cannot take {amount}")),
            Some(units) => {
                let metadata = [(ORDER, key), (INSTALLATION, &self.settings.installation)];
                let made = self.api.create(units, amount.currency, token, &metadata, &idempotency(key, "create")).await;
                match made {
                    Ok(intent) => Entry::Intent(intent.id),
                    Err(ApiError::Refused(refusal)) => Entry::Closed(said(key, &refusal)),
                    Err(error) => return Err(unanswered(error)),
                }
            }
        };
        // If another runner was faster, its entry is recorded, and this intent is never confirmed.
        self.write(key, &new).await.map_err(unanswered)
    }

    /// The result of the confirmation of an intent. An intent that is not confirmed is cancelled permanently.
    async fn confirmed(&self, intent: Intent) -> Result<String, PaymentError> {
        match intent.status.as_str() {
            "requires_capture" | "succeeded" => Ok(intent.id),
            "canceled" => Err(PaymentError::Declined { message: why(&intent) }),
            "processing" => Err(unanswered("the bank has not decided yet")),
            _ => {
                let message = why(&intent);
                match self.cancel(&intent.id).await?.as_str() {
                    "canceled" => Err(PaymentError::Declined { message }),
                    status => Err(unanswered(format!("the payment has become {status}"))),
                }
            }
        }
    }

    /// Cancels an intent, and returns its status afterwards.
    async fn cancel(&self, id: &str) -> Result<String, PaymentError> {
        let intent = match self.api.act(id, "cancel").await {
            // The intent was cancelled before, or is captured.
            Err(ApiError::Refused(_)) => self.api.intent(id).await,
            answered => answered,
        };
        Ok(intent.map_err(unanswered)?.status)
    }

    async fn do_capture(&self, key: &str) -> Result<(), PaymentError> {
        let id = match self.find(key).await.map_err(unanswered)? {
            Some(Entry::Intent(id)) => id,
            Some(Entry::Free) => return Ok(()),
            Some(Entry::Closed(_)) | None => return Err(declined("no payment is authorised")),
        };
        let intent = match self.api.act(&id, "capture").await {
            // The intent was captured before, or has expired.
            Err(ApiError::Refused(_)) => self.api.intent(&id).await,
            answered => answered,
        };
        match intent.map_err(unanswered)?.status.as_str() {
            "succeeded" => Ok(()),
            "requires_capture" | "processing" => Err(unanswered("the payment is not captured yet")),
            _ => Err(declined("the authorisation of the payment has expired")),
        }
    }

    async fn do_void(&self, key: &str) -> Result<(), PaymentError> {
        let entry = self.write(key, &Entry::Closed(GIVEN_UP.to_owned())).await.map_err(unanswered)?;
        let Entry::Intent(id) = entry else { return Ok(()) };
        match self.cancel(&id).await?.as_str() {
            "canceled" => Ok(()),
            "succeeded" => Err(declined("the payment was captured already")),
            status => Err(unanswered(format!("the payment is {status} and cannot be voided yet"))),
        }
    }

    async fn do_refund(&self, key: &str, refund: &str, amount: Money) -> Result<(), PaymentError> {
        let Some(Entry::Intent(id)) = self.find(key).await.map_err(unanswered)? else {
            return Err(declined("there is no such payment"));
        };
        let units = amount::smallest_units(amount).ok_or_else(|| declined("Stripe cannot give back this amount"))?;
        // Stripe deletes idempotency keys after a day, but keeps the refunds. So look for the refund itself.
        let made = self.api.refunds(&id).await.map_err(unanswered)?;
        let ours = made.into_iter().filter(|made| made.metadata.get(REFUND).is_some_and(|of| of == refund));
        let (hold, failed): (Vec<Refund>, Vec<Refund>) = ours.partition(Refund::holds);
        if !hold.is_empty() {
            return Ok(());
        }
        // A payment that was not captured cannot be refunded. For a voided authorisation, Stripe would report a refund.
        if self.api.intent(&id).await.map_err(unanswered)?.status != "succeeded" {
            return Err(declined("the payment was never captured"));
        }
        // A refund that failed is created again, with another key.
        let unique = idempotency(refund, &format!("refund-{}", failed.len()));
        match self.api.refund(&id, units, &[(REFUND, refund)], &unique).await {
            Ok(made) if made.holds() => Ok(()),
            Ok(_) => Err(unanswered("the refund has failed")),
            Err(ApiError::Refused(refusal)) if refusal.is("charge_already_refunded") => {
                tracing::warn!(payment = key, "payment fully refunded at Stripe, but not by souk");
                Ok(())
            }
            Err(ApiError::Refused(refusal)) => Err(declined(&said(key, &refusal))),
            Err(error) => Err(unanswered(error)),
        }
    }

    /// The authorisations of this installation that were made before `before`.
    ///
    /// # Errors
    /// If Stripe or the database does not answer.
    pub async fn held(&self, before: DateTime<Utc>) -> Result<Vec<Held>, PaymentError> {
        let oldest = (before - LONGEST_HOLD).timestamp();
        let mut held = Vec::new();
        for intent in self.api.intents_since(oldest).await.map_err(unanswered)? {
            let ours = intent.metadata.get(INSTALLATION) == Some(&self.settings.installation);
            let Some(payment) = intent.metadata.get(ORDER).filter(|_| ours) else { continue };
            if intent.status == "requires_capture" && intent.created < before.timestamp() {
                let current = self.find(payment).await.map_err(unanswered)? == Some(Entry::Intent(intent.id.clone()));
                held.push(Held { payment: payment.clone(), current, intent: intent.id });
            }
        }
        Ok(held)
    }

    /// Voids an authorisation. Returns true if it was still held.
    ///
    /// # Errors
    /// If Stripe does not answer.
    pub async fn let_go(&self, held: &Held) -> Result<bool, PaymentError> {
        Ok(self.cancel(&held.intent).await? == "canceled")
    }

    async fn read(&self, body: &[u8], signature: &str) -> Result<Notice, WebhookError> {
        if self.settings.webhook_secret.is_empty() {
            return Err(WebhookError::Unexpected);
        }
        webhook::verify(body, signature, &self.settings, Utc::now().timestamp())?;
        let event = webhook::Event::read(body).map_err(WebhookError::Malformed)?;
        let payment = match event.intent() {
            Some(intent) => {
                db::read!(self.db, |conn, q| -> Result<_, DbError> { q::stripe_payment_key(conn, intent).await })?
            }
            None => None,
        };
        Ok(Notice { id: event.id, kind: event.kind, payment })
    }
}

/// The reason why an intent is not confirmed, for the customer.
fn why(intent: &Intent) -> String {
    match (&intent.last_payment_error, intent.status.as_str()) {
        (Some(Refusal { message: Some(message), .. }), _) => message.clone(),
        (_, "requires_action") => {
            "the card's bank asks its holder to confirm the payment, which cannot be done here: use another card".into()
        }
        (_, "canceled") => GIVEN_UP.into(),
        _ => "the payment was not accepted".into(),
    }
}

/// The reason of a refusal, for the customer. Only messages about the card are meant for customers; others are logged
/// for operators.
fn said(key: &str, refusal: &Refusal) -> String {
    match &refusal.message {
        Some(message) if refusal.is_of_the_card() => message.clone(),
        _ => {
            tracing::warn!(payment = key, error = %refusal, "Stripe refuses a request");
            "the payment was not accepted".to_owned()
        }
    }
}

/// An idempotency key for Stripe. Stripe also stores failures under a key, for a day or more, so the key changes every
/// hour. Correctness does not depend on the key.
fn idempotency(key: &str, purpose: &str) -> String {
    format!("souk-{key}-{purpose}-{}", Utc::now().timestamp() / 3600)
}

fn declined(message: &str) -> PaymentError {
    PaymentError::Declined { message: message.to_owned() }
}

fn unanswered(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PaymentError {
    PaymentError::Unanswered(error.into())
}

impl PaymentProvider for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
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
        Box::pin(self.do_capture(key))
    }

    fn void<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(self.do_void(key))
    }

    fn refund<'a>(&'a self, key: &'a str, refund: &'a str, amount: Money) -> BoxFuture<'a, Result<(), PaymentError>> {
        Box::pin(self.do_refund(key, refund, amount))
    }

    fn webhook<'a>(&'a self, body: &'a [u8], signature: &'a str) -> BoxFuture<'a, Result<Notice, WebhookError>> {
        Box::pin(self.read(body, signature))
    }
}
