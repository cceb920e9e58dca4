//! Payments by Stripe: PaymentIntents with manual capture, over its HTTP API.
//!
//! No money is ever held that souk does not know of. An intent is made first, which holds nothing yet; then it is written
//! down as the one that stands for the order; and only what is written down is confirmed. So when any answer is lost, the
//! intent is known, and is asked how far it has come: an intent can be confirmed, captured and cancelled only once, which
//! needs no idempotency keys. A payment that is given up or declined has its intent cancelled, for good: a confirmation
//! that is still on its way then holds nothing.

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

/// Names the order in an intent's metadata, and the refund in a refund's.
const ORDER: &str = "souk_order";
const REFUND: &str = "souk_refund";
/// Names the installation in an intent's metadata.
const INSTALLATION: &str = "souk_installation";
/// Card authorisations live for seven days, or less: older ones need not be looked for.
const LONGEST_HOLD: chrono::TimeDelta = chrono::TimeDelta::days(8);

const GIVEN_UP: &str = "the payment was voided";

/// Money that is held at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Stripe's id of the intent.
    pub intent: String,
    /// The key of the payment that it was made for.
    pub payment: String,
    /// Whether it is the one that stands for the payment.
    pub current: bool,
}

/// Stripe.
pub struct Stripe {
    api: Api,
    db: Db,
    settings: StripeSettings,
}

impl Stripe {
    /// With its books in this database.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(db: Db, settings: StripeSettings) -> Result<Self, reqwest::Error> {
        Ok(Self { api: Api::new(&settings)?, db, settings })
    }

    async fn find(&self, key: &str) -> Result<Option<Entry>, DbError> {
        db::read!(self.db, |conn, q| -> Result<_, DbError> { q::stripe_payment(conn, key).await })
    }

    /// Lets an entry stand for a payment, unless there is one; answers with the one that does then.
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
                    // Whatever it says: how far the intent has come decides.
                    Err(ApiError::Refused(_)) => self.api.intent(&id).await,
                    answered => answered,
                };
                self.confirmed(intent.map_err(unanswered)?).await
            }
        }
    }

    /// Makes an intent that holds nothing yet, and lets it stand for the payment.
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
        // If another runner was faster, theirs counts, and ours is never confirmed.
        self.write(key, &new).await.map_err(unanswered)
    }

    /// What came of confirming an intent. One that is not confirmed never will be.
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

    /// Cancels an intent, and returns its status then.
    async fn cancel(&self, id: &str) -> Result<String, PaymentError> {
        let intent = match self.api.act(id, "cancel").await {
            // Cancelled already, or captured.
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
            // Captured already, or expired.
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
        // Stripe forgets idempotency keys after a day, but never the refunds themselves.
        let made = self.api.refunds(&id).await.map_err(unanswered)?;
        let ours = made.into_iter().filter(|made| made.metadata.get(REFUND).is_some_and(|of| of == refund));
        let (hold, failed): (Vec<Refund>, Vec<Refund>) = ours.partition(Refund::holds);
        if !hold.is_empty() {
            return Ok(());
        }
        // Nothing was taken: of a hold that was let go, Stripe would say that it was given back.
        if self.api.intent(&id).await.map_err(unanswered)?.status != "succeeded" {
            return Err(declined("the payment was never captured"));
        }
        // One that has failed is recreated.
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

    /// The money that this installation has held since before `before`.
    ///
    /// # Errors
    /// Where Stripe or the database gives no answer.
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

    /// Gives up money that is held. Says whether it was still held.
    ///
    /// # Errors
    /// Where Stripe gives no answer.
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

/// Why an intent is not confirmed, for the customer.
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

/// Why Stripe refuses, for the customer. Only what it says of a card is meant for them; the rest is for operators.
fn said(key: &str, refusal: &Refusal) -> String {
    match &refusal.message {
        Some(message) if refusal.is_of_the_card() => message.clone(),
        _ => {
            tracing::warn!(payment = key, error = %refusal, "Stripe refuses a request");
            "the payment was not accepted".to_owned()
        }
    }
}

/// A key by which Stripe makes something once. It keeps failures of its own, too, for a day or more: so the key changes
/// every hour. That what it makes is used once does not depend on it.
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
