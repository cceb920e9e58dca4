//! A replica of the order service: the real saga runner, the real recovery job, and the logic of its RPCs.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use prost::Message as _;
use souk_common::ids::{OrderId, ReturnId};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    journal::Wished,
    wire::{Peer, Wire},
    world::{Planted, State, World},
};
use crate::{
    config::SagaSettings,
    domain::{Entry, Order, Pieces, Placement, Saga, State as Reached, Step, What, Wish},
    error::Error,
    events,
    jobs::Recovery,
    payment::PaymentProvider as _,
    saga::{
        answer,
        ports::{Clock, Journal, Ports},
        runner::{End, Sagas},
    },
    store::{IdempotencyRecord, Key, Lease, Release, Renewal},
};

/// A customer's request.
#[derive(Clone, Debug)]
pub enum Ask {
    Place(Box<Placement>),
    Cancel(OrderId, Vec<Pieces>),
    Adjust(OrderId, What),
    Ship(OrderId, Vec<Pieces>),
    Note(OrderId),
}

/// The response to a request.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// The request was done. Has the encoded response.
    Done(Vec<u8>),
    /// The request had been done before.
    Already,
    /// The request is refused permanently.
    Refused,
    /// The client should retry.
    Again,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done(_) => "that it is done",
            Self::Already => "that it was done",
            Self::Refused => "that it cannot be",
            Self::Again => "to ask again",
        })
    }
}

/// One life of a replica.
#[derive(Clone)]
pub struct Service {
    pub wire: Wire,
    sagas: Sagas<Wire, Wire>,
    stop: CancellationToken,
}

/// Keeps a replica running: whenever it dies, it is started again after a while.
pub async fn keep(world: Arc<World>, replica: usize) {
    loop {
        let died = {
            let mut state = world.state();
            let wire = Wire { world: world.clone(), replica, life: state.replicas[replica].life };
            let service = Service::start(wire, &mut state);
            state.tell(|| format!("replica {replica} starts"));
            state.replicas[replica].service = Some(service);
            state.replicas[replica].died.clone()
        };
        died.notified().await;
        let down = {
            let mut state = world.state();
            state.tell(|| format!("replica {replica} is dead"));
            state.dice.millis(100..9_000)
        };
        sleep(down).await;
    }
}

impl Service {
    fn start(wire: Wire, state: &mut State) -> Self {
        let settings = SagaSettings {
            lease: Duration::from_secs(10),
            step_timeout: Duration::from_secs(5),
            tries: 4,
            interval: Duration::from_secs(1),
            concurrency: state.dice.pick(&[1, 32]),
            reservation_ttl: state.plan.ttl,
        };
        let (interval, concurrency) = (settings.interval, settings.concurrency);
        let ports = Ports {
            journal: wire.clone(),
            stock: wire.clone(),
            payments: Arc::new(wire.clone()) as _,
            clock: Box::new(wire.clone()),
        };
        let sagas = Sagas::with(ports, settings);
        let stop = CancellationToken::new();
        let recovery = Recovery::new(sagas.clone(), concurrency, stop.clone());
        let (stopped, watched) = (stop.clone(), wire.clone());
        tokio::spawn(async move {
            while !stopped.is_cancelled() {
                if !watched.world.state().has_ended() {
                    // A failed run is repeated at the next interval.
                    let _ = recovery.run().await;
                }
                sleep(interval).await;
            }
        });
        tokio::spawn(wire.clone().record_events());
        tokio::spawn(wire.clone().publish_events());
        Self { wire, sagas, stop }
    }

    /// Stops gracefully: running sagas release their leases.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.sagas.drain(Duration::from_secs(1)).await;
        if self.wire.is_alive() {
            self.wire.world.state().kill(self.wire.replica);
        }
    }

    /// Handles a request with the same steps as the RPC.
    pub async fn ask(&self, key: Key, ask: Ask) -> Reply {
        if self.stop.is_cancelled() {
            return Reply::Again;
        }
        // Placing an order reads the prices first. It looks up the key before only if prices fail or take long.
        if !matches!(ask, Ask::Place(_)) || self.wire.world.state().dice.percent(20) {
            let known = key.clone();
            let find_record = move |state: &mut State| state.journal.find_record(&known);
            match self.wire.call((Peer::Journal, "find_record"), &key.key, find_record).await {
                None => return Reply::Again,
                Some(Some(record)) => return again(record),
                Some(None) => {}
            }
        }
        let lease = self.sagas.lease();
        let (replica, what) = (self.wire.replica, key.key.clone());
        let wished: Option<Wished<Saga>> = match ask {
            Ask::Place(placement) => {
                let Ok((order, entries)) = Order::place(*placement, self.wire.now()) else { return Reply::Refused };
                let saga = Saga::Order(Box::new(order.clone()));
                let place = move |state: &mut State| {
                    let mut key = key.clone();
                    if state.planted == Some(Planted::KeyForgotten) {
                        key.key = format!("{} {}", key.key, order.id);
                    }
                    let State { journal, log, .. } = state;
                    journal.place(&key, &order, &entries, lease, log)
                };
                let placed = self.wire.call((Peer::Journal, "place"), what, place).await;
                placed.map(|known| known.map_or(Wished::Begun(saga), Wished::Known))
            }
            Ask::Cancel(id, items) => {
                let cancel = move |state: &mut State| {
                    let now = state.now_at(replica);
                    let wish = Wish { actor: &key.caller, reason: "", etag: "" };
                    let State { journal, log, .. } = state;
                    journal.cancel((id, &key, &items), (wish, now, lease), log)
                };
                self.wire.call((Peer::Journal, "cancel"), what, cancel).await
            }
            Ask::Adjust(id, give) => {
                let adjust = move |state: &mut State| {
                    let now = state.now_at(replica);
                    let wish = Wish { actor: &key.caller, reason: "", etag: "" };
                    let State { journal, log, .. } = state;
                    journal.adjust((id, &key, &give), (wish, now, lease), log)
                };
                self.wire.call((Peer::Journal, "adjust"), what, adjust).await
            }
            Ask::Ship(id, items) => {
                let ship = move |state: &mut State| {
                    let now = state.now_at(replica);
                    let State { journal, log, .. } = state;
                    journal.ship((id, &key, &items), now, log)
                };
                return wished_now(self.wire.call((Peer::Journal, "ship"), what, ship).await);
            }
            Ask::Note(id) => {
                let note = move |state: &mut State| {
                    let now = state.now_at(replica);
                    let State { journal, log, .. } = state;
                    journal.note((id, &key), now, log)
                };
                return wished_now(self.wire.call((Peer::Journal, "note"), what, note).await);
            }
        };
        match wished {
            Some(Wished::Begun(saga)) => self.finish(saga, lease).await,
            Some(Wished::Known(record)) => again(record),
            Some(Wished::Already) => Reply::Already,
            Some(Wished::Refused | Wished::NotFound) => Reply::Refused,
            Some(Wished::Busy) | None => Reply::Again,
        }
    }

    async fn finish(&self, saga: Saga, lease: Lease) -> Reply {
        let sagas = self.sagas.clone();
        let run = self.sagas.track(async move { sagas.run(saga, lease).await });
        let end = timeout(Duration::from_secs(60), run).await;
        if !self.wire.is_alive() {
            std::future::pending::<()>().await;
        }
        match end {
            Ok(Ok(End::Final(Saga::Order(order)))) if order.state == Reached::Cancelled => Reply::Already,
            Ok(Ok(End::Final(Saga::Order(order)))) => Reply::Done(events::order(&order).encode_to_vec()),
            Ok(Ok(End::Final(Saga::Adjustment(adjustment)))) => Reply::Done(answer::encoded_adjustment(&adjustment)),
            Ok(Ok(End::LeaseLost)) => {
                self.wire.world.state().count("somebody else took over", "saga");
                Reply::Again
            }
            _ => Reply::Again,
        }
    }

    /// Abandons an order that is being placed, as operators may do.
    pub async fn abandon(&self, id: OrderId) -> Reply {
        let (lease, replica) = (self.sagas.lease(), self.wire.replica);
        let abandon = move |state: &mut State| {
            let now = state.now_at(replica);
            let State { journal, log, .. } = state;
            journal.abandon(id, (lease, now), log)
        };
        match self.wire.call((Peer::Journal, "abandon"), id, abandon).await {
            Some(Some(saga)) => self.finish(saga, lease).await,
            _ => Reply::Again,
        }
    }

    /// Marks a step as done that an operator does outside of souk, if the order service accepts it.
    pub async fn finish_manually(&self, (id, back): (OrderId, Option<ReturnId>), step: Step) {
        let replica = self.wire.replica;
        let finish = move |state: &mut State| {
            let now = state.now_at(replica);
            let Some(order) = state.journal.orders.get(&id) else { return false };
            let total = order.it.total;
            let action = match back {
                None => order.it.action(),
                Some(back) => state.journal.adjustments.get(&back).and_then(|row| row.it.action()),
            };
            let blindly = state.planted == Some(Planted::FinishBlindly);
            let State { journal, log, .. } = &mut *state;
            let done = journal.finish((id, back, step), now, (blindly, log));
            if let (true, Some(action)) = (done, action) {
                state.settle_manually(&action, total);
                state.count("done manually", name(step));
            }
            done
        };
        self.wire.call((Peer::Journal, "finish"), (id, step), finish).await;
    }

    /// Receives a webhook of the payment provider.
    pub async fn heed(&self, id: OrderId) {
        let read = move |state: &mut State| state.journal.orders.get(&id).map(|row| row.it.clone());
        let found = self.wire.call((Peer::Journal, "read an order"), id, read).await.flatten();
        let replica = self.wire.replica;
        match found {
            Some(order) if order.state.is_running() => {
                let wake = move |state: &mut State| {
                    let now = state.now_at(replica);
                    state.journal.wake(id, now);
                };
                self.wire.call((Peer::Journal, "wake"), id, wake).await;
            }
            Some(order) if order.state == Reached::Rejected => {
                let void = self.wire.void(&id.uuid().simple().to_string()).await;
                if let Err(crate::payment::PaymentError::Declined { .. }) = void {
                    self.wire.world.state().broke(format!("{id} was rejected, and is charged"));
                }
            }
            _ => {}
        }
    }
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Capture => "capture",
        Step::Void => "void",
        Step::Refund => "refund",
        _ => "another step",
    }
}

fn wished_now(wished: Option<Wished<Vec<u8>>>) -> Reply {
    match wished {
        Some(Wished::Begun(answer)) => Reply::Done(answer),
        Some(Wished::Known(record)) => again(record),
        Some(Wished::Already) => Reply::Already,
        Some(Wished::Refused | Wished::NotFound) => Reply::Refused,
        Some(Wished::Busy) | None => Reply::Again,
    }
}

/// The response to a repeated request.
fn again(record: IdempotencyRecord) -> Reply {
    match record.response {
        _ if !record.same_request => Reply::Refused,
        Some(response) => Reply::Done(response),
        None => Reply::Again,
    }
}

impl Journal for Wire {
    async fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        Renewal { held, lease }: Renewal,
    ) -> Result<bool, Error> {
        let (replica, about) = (self.replica, (after.order(), before.position(), after.position()));
        let (before, after, entries) = (before.clone(), after.clone(), entries.to_vec());
        let response = response.map(<[u8]>::to_vec);
        let save = move |state: &mut State| {
            let now = state.now_at(replica);
            let anyone = state.planted == Some(Planted::SaveByAnyone);
            let State { journal, log, .. } = &mut *state;
            let step = (held, lease, now);
            let saved = journal.save((&before, &after), &entries, response.as_deref(), step, (anyone, log));
            if !saved {
                state.count("refused", "save");
            }
            saved
        };
        self.call((Peer::Journal, "save"), about, save).await.ok_or(Error::Lost)
    }

    async fn is_saved(&self, saga: &Saga) -> Result<bool, Error> {
        let about = saga.order();
        let saga = saga.clone();
        let look = move |state: &mut State| {
            let by_version = state.planted == Some(Planted::SavedByVersion);
            state.journal.is_saved(&saga, by_version)
        };
        self.call((Peer::Journal, "is saved"), about, look).await.ok_or(Error::Lost)
    }

    async fn release(&self, saga: &Saga, release: Release<'_>) -> Result<(), Error> {
        let Release { held, due, attempts, .. } = release;
        let about = saga.order();
        let saga = saga.clone();
        let release = move |state: &mut State| state.journal.release(&saga, held, due, attempts);
        self.call((Peer::Journal, "give up a lease"), about, release).await.ok_or(Error::Lost)
    }

    async fn claim(&self, lease: Lease, limit: i64) -> Result<Vec<Saga>, Error> {
        let replica = self.replica;
        let claim = move |state: &mut State| {
            let now = state.now_at(replica);
            let sagas = state.journal.claim(lease, limit, now);
            for _ in &sagas {
                state.count("taken over", "saga");
            }
            sagas
        };
        self.call((Peer::Journal, "claim"), (), claim).await.ok_or(Error::Lost)
    }
}

impl Clock for Wire {
    fn now(&self) -> DateTime<Utc> {
        self.world.state().now_at(self.replica)
    }

    fn lease_number(&self) -> i64 {
        self.world.state().dice.next() as i64
    }

    fn jittered(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + self.world.state().dice.from(0..1_000) as f64 / 2_000.0)
    }
}
