//! The saga service: stuck sagas are listed, retried, or abandoned.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    CompensateSagaRequest, ListSagasRequest, PlaceOrderRequest, RetrySagaRequest, Saga, order::State,
    timeline_entry::Kind,
};
use souk_testkit::wait;

use crate::harness::{SOON, Souk, back, both, fields, order_for, refused};

pub async fn list(souk: &Souk, filter: &str) -> Vec<Saga> {
    let request = ListSagasRequest { filter: filter.to_owned(), ..Default::default() };
    souk.sagas(&souk.staff).list_sagas(request).await.unwrap().into_inner().sagas
}

/// Repeats a call until no runner has the saga.
pub async fn rested<T>(mut call: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    wait::value(SOON, "the saga to rest", async || match call().await {
        Ok(answer) => Some(answer),
        Err(status) => {
            refused(Err::<(), _>(status), Reason::RequestInProgress);
            None
        }
    })
    .await
}

/// Places an order whose stock cannot be reserved, because inventory is unreachable. Returns the order's name.
pub async fn stuck(souk: &Souk, slow: PlaceOrderRequest) -> String {
    let placing = souk.place(&souk.ada, slow);
    let breaking = async {
        let name = souk.paying().await;
        souk.link.cut();
        name
    };
    let (answer, name) = tokio::join!(placing, breaking);
    refused(answer, Reason::ServiceUnavailable);
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_sagas_are_listed_and_can_be_retried() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let sold = souk.confirmed(&[(&lantern, 2)]).await;
        assert_eq!(list(&souk, "").await, []);
        let name = stuck(&souk, order_for(&[(&lantern, 1)], "tok_slow")).await;
        refused(souk.give_back(&souk.staff, back(&sold.name, &[(1, 1)])).await, Reason::ServiceUnavailable);
        let sagas = list(&souk, "attempts >= 1").await;
        assert_eq!(sagas.len(), 2, "{sagas:?}");
        let (order, back) = (&sagas[0], &sagas[1]);
        assert_eq!((order.name.replace("sagas", "orders"), &order.order), (name.clone(), &name));
        assert_eq!((order.state.as_str(), order.step.as_str()), ("PENDING", "COMMIT"));
        assert!(order.last_error.contains("CommitReservation"), "{order:?}");
        assert!(back.name.starts_with("sagas/ret_") && back.order == sold.name, "{back:?}");
        assert_eq!((back.state.as_str(), back.step.as_str()), ("RETURNING", "RESTOCK"));
        assert_eq!(list(&souk, "attempts > 1000").await, []);
        assert_eq!(list(&souk, "create_time < 2020-01-01").await, []);
        let mut api = souk.sagas(&souk.staff);
        let page = ListSagasRequest { page_size: 1, ..Default::default() };
        let first = api.list_sagas(page.clone()).await.unwrap().into_inner();
        let rest = ListSagasRequest { page_token: first.next_page_token, ..page };
        let rest = api.list_sagas(rest).await.unwrap().into_inner();
        assert_eq!([&first.sagas[0].name, &rest.sagas[0].name], [&order.name, &back.name]);
        assert_eq!(rest.next_page_token, "");

        for saga in [order, back] {
            let request = RetrySagaRequest { name: saga.name.clone(), reason: "inventory is back".into() };
            refused(souk.sagas(&souk.ada).retry_saga(request.clone()).await, Reason::AccessDenied);
            let due = rested(async || souk.sagas(&souk.staff).retry_saga(request.clone()).await).await.into_inner();
            assert_eq!(due.name, saga.name);
            let entries = souk.timeline(&souk.staff, &saga.order).await;
            let retry = entries.iter().find(|entry| entry.kind() == Kind::RetryRequested).unwrap();
            assert_eq!((retry.actor.as_str(), retry.detail.as_str()), (souk.staff.name.as_str(), "inventory is back"));
            let seen = souk.timeline(&souk.ada, &saga.order).await;
            assert!(seen.iter().all(|entry| entry.kind() != Kind::RetryRequested));
        }
        souk.link.restore();
        wait::until(SOON, "all to be done", async || list(&souk, "").await.is_empty()).await;
        assert_eq!(souk.get(&souk.ada, &name).await.unwrap().state(), State::Confirmed);
        let request = RetrySagaRequest { name: order.name.clone(), reason: String::new() };
        let problem = refused(souk.sagas(&souk.staff).retry_saga(request).await, Reason::StateConflict);
        assert!(problem.violations()[0].description.ends_with("CONFIRMED"), "{problem}");
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_abandoned_before_its_payment_is_captured() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let name = stuck(&souk, order_for(&[(&lantern, 1)], "tok_slow")).await;
        let request = CompensateSagaRequest { name: name.replace("orders", "sagas"), reason: "customer called".into() };
        refused(souk.sagas(&souk.ada).compensate_saga(request.clone()).await, Reason::AccessDenied);
        // The release of its stock waits for inventory, too.
        wait::until(SOON, "the order to be abandoned", async || {
            let answer = souk.sagas(&souk.staff).compensate_saga(request.clone()).await;
            let problem = souk_common::error::Problem::from(answer.unwrap_err());
            match problem.reason() {
                Reason::ServiceUnavailable => true,
                other => {
                    assert_eq!(other, Reason::RequestInProgress, "{problem}");
                    false
                }
            }
        })
        .await;
        assert_eq!(list(&souk, "").await[0].step, "RELEASE");
        souk.link.restore();
        souk.settled().await;
        let order = souk.get(&souk.ada, &name).await.unwrap();
        let rejection = order.rejection.clone().unwrap();
        assert_eq!((order.state(), rejection.reason.as_str()), (State::Rejected, "ORDER_ABANDONED"));
        assert_eq!(rejection.message, "abandoned by an operator: customer called");
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        let entries = souk.timeline(&souk.staff, &name).await;
        let given_up = entries.iter().find(|entry| entry.kind() == Kind::Abandoned).unwrap();
        assert_eq!(given_up.actor, souk.staff.name);
        let kinds: Vec<_> = entries.iter().map(|entry| entry.kind()).collect();
        assert_eq!(kinds[kinds.len() - 3..], [Kind::StockReleased, Kind::PaymentVoided, Kind::Rejected]);
        souk.verified().await;

        let problem = refused(souk.sagas(&souk.staff).compensate_saga(request).await, Reason::StateConflict);
        assert!(problem.violations()[0].description.ends_with("REJECTED"), "{problem}");
        for wrong in ["sagas/ord_00000000000000000000000000", "sagas/ret_00000000000000000000000000"] {
            let request = CompensateSagaRequest { name: wrong.into(), reason: String::new() };
            refused(souk.sagas(&souk.staff).compensate_saga(request).await, Reason::ResourceNotFound);
        }
        let request = ListSagasRequest { filter: "attempts = many".into(), ..Default::default() };
        let problem = refused(souk.sagas(&souk.staff).list_sagas(request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["filter"]);
    }
}
