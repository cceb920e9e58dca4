//! Webhooks of payment providers. A webhook is a hint to ask the provider; its content is never trusted as a fact.

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
        // Recorded last, because the provider repeats a webhook that failed.
        Ok(self.store.notice(&notice.id).await?)
    }

    /// Brings forward what souk would do later anyway. The next try of a running order is due now. If an order could
    /// not be placed, its payment is voided once more, which has no effect if it was voided before.
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
                // The refusal is permanent, so it would not help if the provider repeated the webhook.
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
