//! An event that cannot be sent delays only the events of its order, and is sent once that is possible.

use souk_common::error::Reason;
use souk_proto::{
    common::v1::{
        DeadLetter, DeleteDeadLetterRequest, ListDeadLettersRequest, ListDeadLettersResponse, RequeueDeadLetterRequest,
    },
    order::v1::event_service_client::EventServiceClient,
};
use souk_testkit::{db::Engine, wait};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

use super::{
    quick_but,
    receiver::{Behaviour, Receiver},
};
use crate::{
    harness::{Bearer, SOON, Souk, both_with, refused},
    verify::tamper,
};

impl Souk {
    fn events(&self) -> EventServiceClient<InterceptedService<Channel, Bearer>> {
        EventServiceClient::with_interceptor(self.orders.channel(), self.admin.bearer.clone())
    }

    async fn dead_letters(&self, page_size: i32, page_token: &str) -> ListDeadLettersResponse {
        let parent = "services/order".to_owned();
        let request = ListDeadLettersRequest { parent, page_size, page_token: page_token.to_owned() };
        self.events().list_dead_letters(request).await.unwrap().into_inner()
    }

    /// Waits until there are `count` dead letters.
    async fn dying(&self, count: usize) -> Vec<DeadLetter> {
        wait::value(SOON, &format!("{count} dead letters"), async || {
            let found = self.dead_letters(0, "").await.dead_letters;
            (found.len() == count).then_some(found)
        })
        .await
    }

    async fn requeue(&self, name: &str) -> Result<DeadLetter, Status> {
        let request = RequeueDeadLetterRequest { name: name.to_owned() };
        Ok(self.events().requeue_dead_letter(request).await?.into_inner())
    }

    async fn delete(&self, name: &str) -> Result<(), Status> {
        let request = DeleteDeadLetterRequest { name: name.to_owned() };
        self.events().delete_dead_letter(request).await.map(drop)
    }

    /// Appends an event of an order that only a newer version can read.
    async fn tell_from_the_future(&self, order: &str) {
        let id = if self.engine == Engine::Sqlite { "randomblob(16)" } else { "gen_random_uuid()" };
        let statement = format!(
            "INSERT INTO events (id, kind, subject, data_type, data, created_at)
             SELECT {id}, 'order.renewed', subject, 'souk.order.v2.Order', data, created_at
             FROM events WHERE subject = '{order}' AND kind = 'order.confirmed'"
        );
        assert_eq!(tamper(self, &statement).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_sent_blocks_only_its_order() {
    for mut souk in both_with(&quick_but(&[("WEBHOOKS__SET_ASIDE_AFTER", "300ms")])).await {
        let lamp = souk.stocked("LAMP", 20).await;
        let receiver = Receiver::start(Behaviour::Take).await;
        souk.hook(&receiver.url(), &[]).await;
        let sick = souk.ordered(&lamp).await;
        receiver.after(2).await;
        souk.tell_from_the_future(&sick).await;
        souk.cancel(&souk.ada, &sick, "").await.unwrap();
        let well = souk.ordered(&lamp).await;

        let got = receiver.after(4).await;
        let told: Vec<_> = got.iter().map(|got| got.order().to_owned()).collect();
        assert_eq!(told, [&*sick, &*sick, &*well, &*well], "{}", souk.engine);
        let dead = souk.dying(3).await;
        let kinds: Vec<_> = dead.iter().map(|letter| letter.event.as_ref().unwrap().r#type.as_str()).collect();
        assert_eq!(kinds, ["order.renewed", "order.cancelling", "order.cancelled"]);
        let event = dead[0].event.as_ref().unwrap();
        assert_eq!(dead[0].name, format!("services/order/deadLetters/webhooks-{}", event.position));
        assert_eq!((event.subject.as_str(), dead[0].data_type.as_str()), (&*sick, "souk.order.v2.Order"));
        assert!(dead[0].try_count > 1 && dead[0].last_error.contains("souk.order.v2.Order"), "{:?}", dead[0]);
        assert_eq!((dead[1].try_count, dead[1].last_error.as_str()), (0, ""));
        let first = souk.dead_letters(2, "").await;
        let second = souk.dead_letters(2, &first.next_page_token).await;
        assert_eq!((&first.dead_letters[..], &second.dead_letters[..]), (&dead[..2], &dead[2..]));
        assert_eq!(second.next_page_token, "");

        // This version still cannot send it.
        assert!(souk.requeue(&dead[2].name).await.unwrap().requeue_time.is_some());
        wait::until(SOON, "the first to be tried again", async || {
            let now = souk.dying(3).await;
            now[0].try_count > dead[0].try_count && now.iter().all(|letter| letter.requeue_time.is_none())
        })
        .await;

        // After an upgrade it can. The events arrive in their order.
        tamper(&souk, "UPDATE event_dead_letters SET data_type = 'souk.order.v1.Order'").await;
        souk.restart().await;
        souk.requeue(&dead[0].name).await.unwrap();
        let kinds: Vec<_> = receiver.after(7).await[4..].iter().map(|got| got.kind().to_owned()).collect();
        assert_eq!(kinds, ["order.renewed", "order.cancelling", "order.cancelled"], "{}", souk.engine);
        souk.dying(0).await;
        let problem = refused(souk.requeue(&dead[0].name).await, Reason::ResourceNotFound);
        assert!(problem.message().contains(&dead[0].name));

        // A deleted dead letter is never sent. Later events are.
        souk.tell_from_the_future(&well).await;
        let dead = souk.dying(1).await;
        souk.delete(&dead[0].name).await.unwrap();
        refused(souk.delete(&dead[0].name).await, Reason::ResourceNotFound);
        souk.cancel(&souk.ada, &well, "").await.unwrap();
        let kinds: Vec<_> = receiver.after(9).await[7..].iter().map(|got| got.kind().to_owned()).collect();
        assert_eq!(kinds, ["order.cancelling", "order.cancelled"]);
        let request = ListDeadLettersRequest { parent: "services/user".into(), ..ListDeadLettersRequest::default() };
        refused(souk.events().list_dead_letters(request).await, Reason::FieldInvalid);
    }
}
