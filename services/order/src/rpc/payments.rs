//! Webhooks of payment providers: a hint to look, never a fact to act on.

use souk_common::error::{Problem, Reason, chain};
use souk_proto::order::v1::{ReceiveWebhookRequest, ReceiveWebhookResponse, payment_service_server::PaymentService};
use tonic::{Request, Response, Status};

use super::{Parts, Rpc};
use crate::{
    domain::State,
    error::Error,
    payment::{Notice, PaymentError, WebhookError, order_of},
};

#[tonic::async_trait]
impl PaymentService for Rpc {
    async fn receive_webhook(
        &self,
        request: Request<ReceiveWebhookRequest>,
    ) -> Result<Response<ReceiveWebhookResponse>, Status> {
        self.0.receive(request.into_inner()).await?;
        Ok(Response::new(ReceiveWebhookResponse {}))
    }
}

impl Parts {
    async fn receive(&self, request: ReceiveWebhookRequest) -> Result<(), Problem> {
        let payments = self.sagas.payments();
        if request.provider != payments.name() {
            return Err(unexpected(&request.provider));
        }
        let body = request.body.unwrap_or_default().data;
        let notice = match payments.webhook(&body, &request.signature).await {
            Ok(notice) => notice,
            Err(WebhookError::Unexpected) => return Err(unexpected(&request.provider)),
            Err(error @ WebhookError::Signature(_)) => {
                return Err(Problem::new(Reason::WebhookSignatureInvalid, error.to_string()));
            }
            Err(error @ WebhookError::Malformed(_)) => {
                let what = "this is no event of the payment provider";
                return Err(Problem::new(Reason::MalformedRequest, what).caused_by(error));
            }
            Err(WebhookError::Books(error)) => return Err(Error::from(error).into()),
        };
        if self.store.is_noticed(&notice.id).await? {
            return Ok(());
        }
        self.heed(&notice).await?;
        // Recorded last: the provider sends a webhook again that failed.
        Ok(self.store.notice(&notice.id).await?)
    }

    /// Has souk ask sooner for what it would have asked anyway: an order under way continues now, and what could not
    /// be placed gives up its money once more, which changes nothing if that was done.
    async fn heed(&self, notice: &Notice) -> Result<(), Problem> {
        let Notice { id, kind, payment } = notice;
        let Some(key) = payment else {
            tracing::info!(id, kind, "webhook is not about an order's payment");
            return Ok(());
        };
        let order = match order_of(key) {
            Some(order) => self.store.order(order, None).await?,
            None => None,
        };
        match order {
            Some(order) if order.state.is_running() => self.store.wake(order.id).await?,
            Some(order) if order.state == State::Rejected => match self.sagas.payments().void(key).await {
                Ok(()) => {}
                // Not by souk. Sending it again would not help.
                Err(error @ PaymentError::Declined { .. }) => {
                    tracing::error!(order = %order.id, error = chain(&error), "rejected order was charged");
                }
                Err(error) => return Err(Problem::unavailable("the payment provider").caused_by(error)),
            },
            Some(_) => {}
            None => tracing::warn!(id, kind, payment = key, "webhook is about a payment without an order"),
        }
        Ok(())
    }
}

fn unexpected(provider: &str) -> Problem {
    let what = "no webhooks of this payment provider are expected: order.payment says which one is in use";
    Problem::new(Reason::ResourceNotFound, what).metadata("provider", provider)
}
