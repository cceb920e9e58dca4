//! `FinishSaga`: an operator completes a payment step outside of souk and marks it as done.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    CompensateSagaRequest, FinishSagaRequest, ListRefundsRequest, Order, Saga,
    order::{State, payment::State as Payment},
    timeline_entry::Kind,
};
use souk_testkit::wait;
use tonic::Status;

use crate::{
    harness::{Person, SOON, Souk, back, both, cancel, fields, gbp, order_for, refund, refused},
    sagas::{list, rested, stuck},
    verify::{broken, tamper},
};

const REASON: &str = "bank transfer 4711";

async fn finish(souk: &Souk, who: &Person, saga: &str, step: &str) -> Result<Saga, Status> {
    let request = FinishSagaRequest { name: saga.to_owned(), step: step.to_owned(), reason: REASON.into() };
    Ok(souk.sagas(who).finish_saga(request).await?.into_inner())
}

/// Makes the payment provider unreachable, or reachable again.
async fn provider(souk: &Souk, there: bool) {
    let [from, to] = if there { ["gone", "simulated_payments"] } else { ["simulated_payments", "gone"] };
    tamper(souk, &format!("ALTER TABLE {from} RENAME TO {to}")).await;
}

/// Waits until the only saga is stuck at this step, and returns it.
async fn stuck_at(souk: &Souk, step: &str) -> Saga {
    wait::value(SOON, "the saga to get nowhere", async || {
        list(souk, "attempts >= 1").await.pop().filter(|saga| saga.step == step)
    })
    .await
}

/// Finishes the only saga, which is stuck at this step.
async fn finished(souk: &Souk, step: &str) -> Saga {
    let name = stuck_at(souk, step).await.name;
    rested(async || finish(souk, &souk.staff, &name, step).await).await
}

async fn settled_manually(souk: &Souk, order: &str) -> (Payment, bool, Option<souk_proto::google::r#type::Money>) {
    let payment = souk.get(&souk.ada, order).await.unwrap().payment.unwrap();
    (payment.state(), payment.settled_manually, payment.refunded_manually)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manually_captured_payment_is_refunded_manually() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let request = order_for(&[(&lantern, 3)], "tok_slow");
        let name = stuck(&souk, request.clone()).await;
        let saga = name.replace("orders", "sagas");
        let problem = refused(finish(&souk, &souk.staff, &saga, "CAPTURE").await, Reason::StateConflict);
        let says = &problem.violations()[0].description;
        assert_eq!(says, "must be at CAPTURE, but is PENDING at COMMIT");
        for step in ["COMMIT", "AUTHORIZE", "RESERVE", "RELEASE", "RESTOCK", "capture", ""] {
            let problem = refused(finish(&souk, &souk.staff, &saga, step).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["step"]);
        }
        let silent = FinishSagaRequest { name: saga.clone(), step: "CAPTURE".into(), reason: String::new() };
        let problem = refused(souk.sagas(&souk.staff).finish_saga(silent).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["reason"]);
        refused(finish(&souk, &souk.ada, &saga, "CAPTURE").await, Reason::AccessDenied);
        for wrong in ["sagas/ord_00000000000000000000000000", "sagas/ret_00000000000000000000000000"] {
            refused(finish(&souk, &souk.staff, wrong, "CAPTURE").await, Reason::ResourceNotFound);
        }

        provider(&souk, false).await;
        souk.link.restore();
        stuck_at(&souk, "CAPTURE").await;
        refused(finish(&souk, &souk.staff, &saga, "VOID").await, Reason::StateConflict);
        let running = "UPDATE orders SET lease = 5, due_at = '2100-01-01 00:00:00+00:00' WHERE step = 'CAPTURE'";
        assert_eq!(tamper(&souk, running).await, 1);
        refused(finish(&souk, &souk.staff, &saga, "CAPTURE").await, Reason::RequestInProgress);
        tamper(&souk, "UPDATE orders SET lease = NULL WHERE step = 'CAPTURE'").await;
        let ended = finish(&souk, &souk.staff, &saga, "CAPTURE").await.unwrap();
        assert_eq!((ended.state.as_str(), ended.step.as_str(), ended.due_time), ("CONFIRMED", "", None));
        let order = souk.get(&souk.ada, &name).await.unwrap();
        assert_eq!(order.state(), State::Confirmed);
        assert_eq!(settled_manually(&souk, &name).await, (Payment::Captured, true, None));
        // The caller who placed the order gets its final state.
        assert_eq!(souk.place(&souk.ada, request).await.unwrap(), order);
        let entries = souk.timeline(&souk.staff, &name).await;
        let [.., told, captured, confirmed] = entries.as_slice() else { panic!("{entries:?}") };
        let staff = souk.staff.name.as_str();
        assert_eq!((told.kind(), told.actor.as_str(), told.detail.as_str()), (Kind::FinishedManually, staff, REASON));
        assert_eq!((captured.kind(), captured.actor.as_str()), (Kind::PaymentCaptured, staff));
        assert_eq!((confirmed.kind(), confirmed.actor.as_str()), (Kind::Confirmed, "services/order"));
        let seen = souk.timeline(&souk.ada, &name).await;
        assert!(seen.iter().all(|entry| entry.kind() != Kind::FinishedManually && entry.detail != REASON), "{seen:?}");
        let problem = refused(finish(&souk, &souk.staff, &saga, "CAPTURE").await, Reason::StateConflict);
        assert!(problem.violations()[0].description.ends_with("but is CONFIRMED"), "{problem}");

        // The provider is back and holds money that nobody captures any more. A late capture would change nothing
        // either.
        provider(&souk, true).await;
        assert_eq!(souk.kinds(&name).await.len(), entries.len());
        souk.verified().await;
        // The provider never captured the money, so it cannot refund it.
        let request = back(&name, &[(1, 1)]);
        refused(souk.give_back(&souk.staff, request.clone()).await, Reason::ServiceUnavailable);
        let ended = finished(&souk, "REFUND").await;
        assert_eq!((ended.state.as_str(), ended.order.as_str()), ("COMPLETED", name.as_str()));
        assert_eq!(souk.give_back(&souk.staff, request).await.unwrap().refund, Some(gbp(2, 500_000_000)));
        refused(souk.cancel(&souk.ada, &name, "").await, Reason::ServiceUnavailable);
        assert_eq!(finished(&souk, "REFUND").await.state, "CANCELLED");
        assert_eq!(settled_manually(&souk, &name).await, (Payment::Refunded, true, Some(gbp(7, 500_000_000))));
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
        tamper(&souk, "UPDATE simulated_payments SET state = 'CAPTURED'").await;
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_may_be_voided_outside_of_souk() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let name = stuck(&souk, order_for(&[(&lantern, 1)], "tok_slow")).await;
        let saga = name.replace("orders", "sagas");
        let request = CompensateSagaRequest { name: saga.clone(), reason: "customer called".into() };
        wait::until(SOON, "the order to be abandoned", async || {
            let problem = souk.sagas(&souk.staff).compensate_saga(request.clone()).await.unwrap_err();
            souk_common::error::Problem::from(problem).reason() == Reason::ServiceUnavailable
        })
        .await;
        provider(&souk, false).await;
        souk.link.restore();
        stuck_at(&souk, "VOID").await;
        refused(finish(&souk, &souk.staff, &saga, "CAPTURE").await, Reason::StateConflict);
        assert_eq!(finished(&souk, "VOID").await.state, "REJECTED");
        assert_eq!(settled_manually(&souk, &name).await, (Payment::Voided, true, None));
        let kinds = souk.kinds(&name).await;
        assert_eq!(kinds[kinds.len() - 3..], [Kind::FinishedManually, Kind::PaymentVoided, Kind::Rejected]);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        provider(&souk, true).await;
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refund_may_be_paid_outside_of_souk() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 20).await;
        let order = souk.confirmed(&[(&lantern, 6)]).await;
        let kept = souk.confirmed(&[(&lantern, 1)]).await;
        let whole = souk.confirmed(&[(&lantern, 2)]).await;
        let staff = &souk.staff;
        provider(&souk, false).await;
        let (returned, cancelled) = (back(&order.name, &[(1, 1)]), cancel(&order.name, &[(1, 2)]));
        let sorry = refund(&order.name, gbp(1, 0));
        refused(souk.give_back(staff, returned.clone()).await, Reason::ServiceUnavailable);
        assert_eq!(finished(&souk, "REFUND").await.state, "COMPLETED");
        refused(souk.cancel_items(staff, cancelled.clone()).await, Reason::ServiceUnavailable);
        assert_eq!(finished(&souk, "REFUND").await.state, "COMPLETED");
        refused(souk.refund(staff, sorry.clone()).await, Reason::ServiceUnavailable);
        let saga = stuck_at(&souk, "REFUND").await;
        let running = "UPDATE returns SET lease = 5, due_at = '2100-01-01 00:00:00+00:00' WHERE step = 'REFUND'";
        assert_eq!(tamper(&souk, running).await, 1);
        refused(finish(&souk, staff, &saga.name, "REFUND").await, Reason::RequestInProgress);
        tamper(&souk, "UPDATE returns SET lease = NULL WHERE step = 'REFUND'").await;
        assert_eq!(finish(&souk, staff, &saga.name, "REFUND").await.unwrap().state, "COMPLETED");
        refused(souk.cancel(&souk.ada, &whole.name, "").await, Reason::ServiceUnavailable);
        assert_eq!(finished(&souk, "REFUND").await.state, "CANCELLED");
        provider(&souk, true).await;

        // The repeated requests get their responses, and nothing is paid again.
        assert!(souk.refund(staff, sorry).await.unwrap().settled_manually);
        souk.give_back(staff, returned).await.unwrap();
        souk.cancel_items(staff, cancelled).await.unwrap();
        assert_eq!(settled_manually(&souk, &order.name).await, (Payment::Captured, false, Some(gbp(8, 500_000_000))));
        assert_eq!(settled_manually(&souk, &whole.name).await, (Payment::Refunded, false, Some(gbp(5, 0))));
        souk.verified().await;
        // The provider pays later refunds.
        souk.give_back(staff, back(&order.name, &[(1, 1)])).await.unwrap();
        souk.refund(staff, refund(&kept.name, gbp(1, 0))).await.unwrap();
        let request = ListRefundsRequest { parent: order.name.clone(), ..Default::default() };
        let refunds = souk.api(&souk.ada).list_refunds(request).await.unwrap().into_inner().refunds;
        assert_eq!(refunds.iter().map(|refund| refund.settled_manually).collect::<Vec<_>>(), [true, true, true, false]);
        let now: Order = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!(now.refunded_total, Some(gbp(11, 0)));
        assert_eq!(settled_manually(&souk, &kept.name).await, (Payment::Captured, false, None));
        souk.verified().await;

        // A late response of the provider: the refund is in its books after all.
        let booked = |minor: i64| {
            let key = souk_common::ids::OrderId::parse_name(&order.name).unwrap().uuid().simple().to_string();
            [
                format!("UPDATE simulated_payments SET refunded_minor = {minor} WHERE key = '{key}'"),
                format!("UPDATE simulated_refunds SET amount_minor = {minor} WHERE payment = '{key}'"),
            ]
        };
        // The provider refunded at least 2.50, and 11.00 is the total.
        for (minor, holds) in [(500, true), (1100, true), (249, false), (1101, false), (250, true)] {
            for statement in booked(minor) {
                assert_eq!(tamper(&souk, &statement).await, 1);
            }
            let found = broken(&souk).await;
            assert_eq!(found.is_empty(), holds, "{minor}: {found:?}");
        }
        // Only FinishSaga may mark something as settled manually.
        for (statement, undo) in [
            (
                "UPDATE orders SET payment_settled_manually = TRUE WHERE refunded_manually_minor > 0",
                "UPDATE orders SET payment_settled_manually = FALSE",
            ),
            (
                "UPDATE orders SET refunded_manually_minor = refunded_manually_minor - 1 WHERE refunded_manually_minor > 1",
                "UPDATE orders SET refunded_manually_minor = refunded_manually_minor + 1 WHERE refunded_manually_minor > 1",
            ),
            (
                "UPDATE returns SET settled_manually = FALSE WHERE refund_minor = 500",
                "UPDATE returns SET settled_manually = TRUE WHERE refund_minor = 500",
            ),
            (
                "UPDATE timeline_entries SET actor = 'me' WHERE kind = 'PAYMENT_REFUNDED' AND actor LIKE 'users/%'",
                "UPDATE timeline_entries SET actor = (SELECT max(actor) FROM timeline_entries
                    WHERE kind = 'FINISHED_MANUALLY') WHERE actor = 'me'",
            ),
            ("DELETE FROM timeline_entries WHERE kind = 'FINISHED_MANUALLY'", ""),
        ] {
            assert!(tamper(&souk, statement).await > 0, "{statement}");
            let found = broken(&souk).await;
            assert!(found.iter().any(|name| name.contains("match the operators' entries")), "{statement}: {found:?}");
            if !undo.is_empty() {
                tamper(&souk, undo).await;
                assert!(broken(&souk).await.is_empty(), "{undo}");
            }
        }
    }
}
