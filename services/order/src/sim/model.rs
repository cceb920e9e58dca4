//! Compares the journal in memory with the real store: the same operations must give the same results, on both engines.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    ids::{OrderId, ReturnId},
    money::{Currency, Money},
};
use souk_testkit::db::both;

use super::{
    dice::Dice,
    journal::{Journal, Wished},
    log::Log,
    people::placement,
};
use crate::{
    domain::{Answer, CancelRefusal, Kind, Order, Pieces, Refusal, Saga, State as Reached, Step, Tracking, What, Wish},
    events,
    saga::answer::{self, response},
    store::{
        Adjusting, Begin, Cancel, IdempotencyRecord, Key, Lease, Note, Operated, OrderScope, Release, Renewal, SagaId,
        Shipping, Store, now,
    },
};

/// The number of operations in each history.
const LENGTH: usize = 400;
const HISTORIES: u64 = 2;

/// The result of an operation, without generated values.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    NotFound,
    Known(bool, OrderId, bool),
    Busy,
    Refused,
    Already,
    Begun,
}

fn known(record: &IdempotencyRecord) -> Said {
    Said::Known(record.same_request, record.order, record.response.is_some())
}

fn wished<T>(wished: &Wished<T>) -> Said {
    match wished {
        Wished::NotFound => Said::NotFound,
        Wished::Known(record) => known(record),
        Wished::Busy => Said::Busy,
        Wished::Refused => Said::Refused,
        Wished::Already => Said::Already,
        Wished::Begun(_) => Said::Begun,
    }
}

fn begun<T>(begin: &Begin<T>) -> Said {
    match begin {
        Begin::NotFound => Said::NotFound,
        Begin::Known(record) => known(record),
        Begin::Refused(Refusal::Busy) => Said::Busy,
        Begin::Refused(_) => Said::Refused,
        Begin::Begun(_) => Said::Begun,
    }
}

/// The ids of one adjustment, which differ between the store and the journal.
struct Pair {
    real: ReturnId,
    model: ReturnId,
}

/// A store and a journal, and the sagas that runners hold, each as the store and as the journal have it.
struct Both {
    store: Store,
    journal: Journal,
    log: Log,
    dice: Dice,
    orders: Vec<OrderId>,
    pairs: Vec<Pair>,
    in_hand: Vec<(Saga, Saga, i64)>,
    /// The number of steps that an operator did outside of souk.
    finished: usize,
}

impl Both {
    /// A lease that has expired already, or one that lasts until the test ends.
    fn lease(&mut self) -> Lease {
        let seconds = self.dice.pick(&[-60, 3_600]);
        Lease { id: self.dice.from(1..6) as i64, until: now() + TimeDelta::seconds(seconds) }
    }

    /// The id of an order: mostly of one that was placed.
    fn order(&mut self) -> OrderId {
        let confirmed = self.journal.orders.values().filter(|row| row.it.state == Reached::Confirmed);
        let confirmed: Vec<_> = confirmed.map(|row| row.it.id).collect();
        let any = confirmed.is_empty() || self.dice.percent(30);
        self.dice.pick(if any { &self.orders } else { &confirmed })
    }

    /// A saga that one of the runners holds: mostly the newest one.
    fn in_hand(&mut self) -> (Saga, Saga, i64) {
        let back = if self.dice.percent(80) { 3 } else { 30 }.min(self.in_hand.len());
        self.in_hand[self.in_hand.len() - 1 - self.dice.from(0..back as u64) as usize].clone()
    }

    fn key(&mut self, method: &'static str) -> Key {
        let (key, hash) = (format!("{method} {}", self.dice.from(0..40)), self.dice.from(0..10) / 9);
        Key { caller: "users/1".into(), method, key, request_hash: vec![hash as u8] }
    }

    fn pieces(&mut self) -> Vec<Pieces> {
        vec![Pieces { number: self.dice.from(1..4) as i32, quantity: self.dice.from(1..3) as i64 }]
    }

    async fn act(&mut self) -> String {
        let lease = self.lease();
        match self.dice.from(0..40) {
            0..3 => self.place(lease).await,
            3..5 => self.claim(lease).await,
            5 => self.release().await,
            6..8 => self.cancel(lease).await,
            8..13 => self.adjust(lease).await,
            13..15 => self.ship_or_note().await,
            15 => self.retry_or_wake().await,
            16 => self.abandon(lease).await,
            17..19 => self.finish().await,
            _ => self.save(lease).await,
        }
    }

    async fn place(&mut self, lease: Lease) -> String {
        let key = self.key("PlaceOrder");
        let mut placement = placement(&mut self.dice, 1);
        placement.id = OrderId::new();
        let (order, entries) = Order::place(placement, now()).unwrap();
        let real = self.store.place(&key, &order, &entries, lease).await.unwrap();
        let model = self.journal.place(&key, &order, &entries, lease, &mut self.log);
        assert_eq!(real, model);
        if real.is_none() {
            self.orders.push(order.id);
            let saga = Saga::Order(Box::new(order));
            self.in_hand.push((saga.clone(), saga, lease.id));
        }
        format!("place {lease:?}: {real:?}")
    }

    async fn claim(&mut self, lease: Lease) -> String {
        let before = now();
        let mut real = self.store.claim(lease, 1_000).await.unwrap();
        let mut model = self.journal.claim(lease, 1_000, before);
        let name = |saga: &Saga| match saga {
            Saga::Order(order) => (order.id, None),
            Saga::Adjustment(adjustment) => (adjustment.order, Some(adjustment.id)),
        };
        real.sort_by_key(|saga| name(&self.like_model(saga)));
        model.sort_by_key(name);
        assert_eq!(real.iter().map(|saga| self.like_model(saga)).collect::<Vec<_>>(), model);
        self.in_hand.extend(real.iter().cloned().zip(model).map(|(real, model)| (real, model, lease.id)));
        format!("claim {lease:?}: {}", real.len())
    }

    /// A saga of the store with the ids that the journal uses.
    fn like_model(&self, saga: &Saga) -> Saga {
        let mut saga = saga.clone();
        if let Saga::Adjustment(adjustment) = &mut saga {
            adjustment.id = self.pairs.iter().find(|pair| pair.real == adjustment.id).unwrap().model;
        }
        saga
    }

    /// A runner stores a step, or checks whether it was stored. The runner holds the lease or has lost it.
    async fn save(&mut self, lease: Lease) -> String {
        let (real, model, held) = self.in_hand();
        let (_, Some(step)) = real.position() else { return String::new() };
        let answer = match (step, self.dice.from(0..12)) {
            (Step::Reserve | Step::Commit, 0) => Answer::OutOfStock { message: "none".into(), items: Vec::new() },
            (Step::Authorize | Step::Capture, 0) => Answer::Refused { provider: "p".into(), message: "no".into() },
            (Step::Authorize, _) => Answer::Authorized { provider: "p".into(), reference: "r".into() },
            (Step::Release, 0) => Answer::AlreadyCommitted,
            _ => Answer::Done,
        };
        let (mut next, mut next_model, time) = (real.clone(), model.clone(), now());
        let entries = next.advance(&answer, Some("p"), time).unwrap();
        next_model.advance(&answer, Some("p"), time).unwrap();
        let response = next.position().1.is_none().then(|| b"the end".to_vec());
        let lease = Lease { id: held, ..lease };
        let saved =
            self.store.save(&real, &next, &entries, response.as_deref(), Renewal { held, lease }).await.unwrap();
        let step = (held, lease, self.time(next.order()).await);
        let also =
            self.journal.save((&model, &next_model), &entries, response.as_deref(), step, (false, &mut self.log));
        assert_eq!(saved, also, "{real:?}");
        let stored = self.store.is_saved(&next).await.unwrap();
        assert_eq!(stored, self.journal.is_saved(&next_model, false), "{next:?}");
        if saved {
            // A runner that continues has the new saga. A runner that was too slow keeps the old one.
            self.in_hand.push((next.clone(), next_model, held));
        }
        format!("save {:?} by {held}: {saved}, then {stored}", next.position())
    }

    async fn release(&mut self) -> String {
        let (real, model, held) = self.in_hand();
        let due = now() + TimeDelta::seconds(self.dice.pick(&[-1, 3_600]));
        self.store.release(&real, Release { held, due, attempts: 7, error: "why" }).await.unwrap();
        self.journal.release(&model, held, due, 7);
        format!("release {:?} by {held}", real.position())
    }

    async fn cancel(&mut self, lease: Lease) -> String {
        let (id, key) = (self.order(), self.key("CancelOrder"));
        let items = if self.dice.percent(50) { self.pieces() } else { Vec::new() };
        let wish = Wish { actor: "users/1", reason: "", etag: "" };
        let scope = OrderScope { id, owner: None };
        let real = self.store.cancel(scope, &key, &items, wish, lease, answer::encoded_adjustment).await.unwrap();
        let model = self.journal.cancel((id, &key, &items), (wish, self.time(id).await, lease), &mut self.log);
        let said = match &real {
            Cancel::NotFound => Said::NotFound,
            Cancel::Refused(CancelRefusal::Busy, _) => Said::Busy,
            Cancel::Refused(..) => Said::Refused,
            Cancel::Already(_) => Said::Already,
            Cancel::Known(record) => known(record),
            Cancel::Begun(_) => Said::Begun,
        };
        assert_eq!(said, wished(&model));
        if let (Cancel::Begun(real), Wished::Begun(model)) = (real, model) {
            self.took(real, model, lease);
        }
        format!("cancel {items:?}: {said:?}")
    }

    async fn adjust(&mut self, lease: Lease) -> String {
        let (id, key) = (self.order(), self.key("Adjust"));
        let what = match self.dice.percent(50) {
            true => What::Return(self.pieces()),
            false => What::Refund(Money::new(self.dice.from(1..200) as i64, Currency::GBP)),
        };
        let wish = Wish { actor: "users/1", reason: "", etag: "" };
        let respond = answer::encoded_adjustment;
        let real = self
            .store
            .adjust(&key, Adjusting { order: id, what: &what, time: None }, wish, lease, respond)
            .await
            .unwrap();
        let model = self.journal.adjust((id, &key, &what), (wish, self.time(id).await, lease), &mut self.log);
        let said = begun(&real);
        assert_eq!(said, wished(&model));
        if let (Begin::Begun(real), Wished::Begun(model)) = (real, model) {
            self.took(Saga::Adjustment(real), model, lease);
        }
        format!("adjust {what:?}: {said:?}")
    }

    fn took(&mut self, real: Saga, model: Saga, lease: Lease) {
        if let (Saga::Adjustment(real), Saga::Adjustment(model)) = (&real, &model) {
            self.pairs.push(Pair { real: real.id, model: model.id });
        }
        self.in_hand.push((real, model, lease.id));
    }

    async fn ship_or_note(&mut self) -> String {
        let (id, key) = (self.order(), self.key("Ship"));
        let (real, model) = if self.dice.percent(50) {
            let tracking = Tracking { carrier: String::new(), number: String::new(), url: String::new() };
            let shipping = Shipping { items: self.pieces(), tracking, time: None };
            let real = self.store.ship(&key, id, &shipping, |_| vec![1]).await.unwrap();
            (begun(&real), self.journal.ship((id, &key, &shipping.items), self.time(id).await, &mut self.log))
        } else {
            let real = self.store.note(&key, id, Note { text: "a note", internal: false }, |_| vec![1]).await.unwrap();
            (begun(&real), self.journal.note((id, &key), self.time(id).await, &mut self.log))
        };
        assert_eq!(real, wished(&model));
        format!("ship or note: {real:?}")
    }

    async fn retry_or_wake(&mut self) -> String {
        let id = self.order();
        if self.dice.percent(30) {
            self.store.wake(id).await.unwrap();
            self.journal.wake(id, now());
            return "wake".into();
        }
        let (saga, model) = self.saga(id);
        let wish = Wish { actor: "operator", reason: "", etag: "" };
        let real = matches!(self.store.retry(saga, wish).await.unwrap(), Operated::Done(_));
        let time = self.time(model.0).await;
        assert_eq!(real, self.journal.retry(model, time, &mut self.log));
        format!("retry {saga:?}: {real}")
    }

    /// The saga of this order or of the newest adjustment, in the store and in the journal.
    fn saga(&mut self, id: OrderId) -> (SagaId, (OrderId, Option<ReturnId>)) {
        let ours = self.pairs.iter().map(|pair| (pair.real, pair.model)).next_back();
        match ours.filter(|_| self.dice.percent(50)) {
            Some((real, model)) => (SagaId::Adjustment(real), (self.journal.adjustments[&model].it.order, Some(model))),
            None => (SagaId::Order(id), (id, None)),
        }
    }

    /// An operator marks a step as done. Mostly the saga is at a step about money and nobody runs it, if there is one.
    async fn finish(&mut self) -> String {
        let time = now();
        let free = |step: Option<Step>, lease: Option<i64>, due: Option<DateTime<Utc>>| {
            let runs = lease.is_some() && due.is_some_and(|due| due > time);
            step.is_some_and(Step::can_be_done_manually) && !runs
        };
        let orders = self.journal.orders.values().filter(|row| free(row.it.step, row.lease, row.due));
        let orders = orders.map(|row| (SagaId::Order(row.it.id), (row.it.id, None)));
        let pairs = self.pairs.iter().filter_map(|pair| {
            let row = &self.journal.adjustments[&pair.model];
            let saga = (SagaId::Adjustment(pair.real), (row.it.order, Some(pair.model)));
            free(row.it.step, row.lease, row.due).then_some(saga)
        });
        let sagas: Vec<_> = orders.chain(pairs).collect();
        let (saga, (id, back)) = if sagas.is_empty() || self.dice.percent(20) {
            let id = self.order();
            self.saga(id)
        } else {
            self.dice.pick(&sagas)
        };
        let at = match back {
            None => self.journal.orders[&id].it.step,
            Some(back) => self.journal.adjustments[&back].it.step,
        };
        let step = at.filter(|_| self.dice.percent(80)).unwrap_or(Step::Refund);
        let wish = Wish { actor: "operator", reason: "by transfer", etag: "" };
        let real = matches!(self.store.finish(saga, step, wish, response).await.unwrap(), Operated::Done(_));
        let time = self.time(id).await;
        assert_eq!(real, self.journal.finish((id, back, step), time, (false, &mut self.log)));
        self.finished += usize::from(real);
        format!("finish {saga:?} at {step:?}: {real}")
    }

    async fn abandon(&mut self, lease: Lease) -> String {
        let id = self.order();
        let wish = Wish { actor: "operator", reason: "", etag: "" };
        let real = self.store.abandon(id, wish, "simulated", lease).await.unwrap();
        let model = self.journal.abandon(id, (lease, self.time(id).await), &mut self.log);
        let done = matches!(real, Operated::Done(_));
        assert_eq!(done, model.is_some(), "{real:?}");
        if let (Operated::Done(order), Some(model)) = (real, model) {
            self.in_hand.push((Saga::Order(order), model, lease.id));
        }
        format!("abandon: {done}")
    }

    /// When the store last changed an order. The store uses its own clock.
    async fn time(&self, id: OrderId) -> DateTime<Utc> {
        self.store.order(id, None).await.unwrap().map_or_else(now, |order| order.update_time)
    }

    /// Checks that the store and the journal hold the same data.
    async fn same(&self) {
        for (id, row) in &self.journal.orders {
            assert_eq!(self.store.order(*id, None).await.unwrap().as_ref(), Some(&row.it));
            let timeline = self.store.timeline(OrderScope { id: *id, owner: None }, 0, 1_000).await.unwrap().unwrap();
            let kinds = |rows: &[crate::store::TimelineRow]| -> Vec<(i32, Kind)> {
                rows.iter().map(|row| (row.number, row.entry.kind)).collect()
            };
            assert_eq!(kinds(&timeline), kinds(&self.journal.timelines[id]));
            let told: Vec<_> = timeline.iter().filter_map(|row| events::event(row.entry.kind)).collect();
            let logged = self.log.events.iter().filter(|event| event.order == *id).map(|event| event.kind);
            assert_eq!(told, logged.collect::<Vec<_>>());
        }
        for pair in &self.pairs {
            let row = &self.journal.adjustments[&pair.model];
            let view = self.store.saga(SagaId::Adjustment(pair.real)).await.unwrap().unwrap();
            assert_eq!((view.state, view.step, view.attempts), (row.it.state, row.it.step, row.it.attempts));
            assert_eq!(view.due, row.due);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_in_memory_is_what_the_store_is() {
    for seed in 0..HISTORIES {
        for database in both("order").await {
            println!("{} {seed}", database.engine);
            let config = souk_store::db::Config::at(database.url.clone());
            let store = Store::open(&config, database.data_dir()).await.unwrap();
            let mut both = Both {
                store,
                journal: Journal::default(),
                log: Log::default(),
                dice: Dice::new(seed),
                orders: Vec::new(),
                pairs: Vec::new(),
                in_hand: Vec::new(),
                finished: 0,
            };
            both.place(Lease { id: 1, until: now() - TimeDelta::seconds(1) }).await;
            for number in 0..LENGTH {
                println!("{}", both.act().await);
                if number % 20 == 0 {
                    both.same().await;
                }
            }
            both.same().await;
            let ended = both.journal.orders.values().filter(|row| row.it.state == Reached::Confirmed);
            assert!(ended.count() > 0, "no order was ever confirmed");
            assert!(!both.pairs.is_empty(), "nothing was ever given back");
            assert!(both.finished > 0, "no step was ever done manually");
            both.store.close().await;
        }
    }
}
