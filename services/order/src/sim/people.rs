//! The actors of the world: customers who retry until they get a response, operators, and faults that hit replicas.

use std::{collections::HashMap, sync::Arc, time::Duration};

use souk_common::{
    ids::{OrderId, ReturnId, UserId},
    money::{Currency, Money},
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{
    dice::Dice,
    service::{Ask, Reply, Service},
    shelf::{PRODUCTS, product},
    wire::{Peer, Wire},
    world::{REPLICAS, State, World},
};
use crate::{
    domain::{Address, Offer, Pieces, Placement, Step, Wanted, What, price},
    store::Key,
};

/// Price of one piece, in pence.
const PRICE: i64 = 100;

/// One customer: places an order, and changes it later.
pub async fn customer(world: Arc<World>, number: u64) {
    let (caller, pause, asks) = {
        let mut state = world.state();
        let chaos = state.plan.chaos.as_millis() as u64;
        (format!("users/{number}"), state.dice.millis(0..chaos / 2), state.dice.from(0..5))
    };
    sleep(pause).await;
    let placement = {
        let mut state = world.state();
        let placement = placement(&mut state.dice, number);
        state.tell(|| {
            let goods: Vec<_> = placement.priced.lines.iter().map(|line| (line.product, line.quantity)).collect();
            format!("{caller} wants {goods:?} and pays with {}", placement.payment_token)
        });
        placement
    };
    let placed = insist(&world, key(&caller, "PlaceOrder", 0), Ask::Place(Box::new(placement))).await;
    if !matches!(placed, Some(Reply::Done(_))) {
        return;
    }
    for asked in 1..=asks {
        let Some(id) = order_of(&world.state(), &caller) else { return };
        let (pause, (method, ask)) = {
            let mut state = world.state();
            (state.dice.millis(0..4_000), wish(&mut state, id))
        };
        sleep(pause).await;
        insist(&world, key(&caller, method, asked), ask).await;
    }
}

fn key(caller: &str, method: &'static str, number: u64) -> Key {
    Key { caller: caller.to_owned(), method, key: format!("{caller} {number} {method}"), request_hash: vec![1] }
}

/// The order that a customer's first request created.
fn order_of(state: &State, caller: &str) -> Option<OrderId> {
    let mut keys = state.journal.keys.iter();
    keys.find(|(key, _)| key.0 == caller && key.1 == "PlaceOrder").map(|(_, kept)| kept.order)
}

/// What a customer buys.
pub fn placement(dice: &mut Dice, number: u64) -> Placement {
    let lines = dice.from(1..4);
    let wanted: Vec<Wanted> = (0..lines)
        .map(|_| Wanted {
            product: product(dice.from(0..PRODUCTS)),
            quantity: dice.from(1..4) as i64,
            unit_price: None,
        })
        .collect();
    let tokens = ["tok_approved", "tok_approved", "tok_declined", "tok_slow", "tok_fails_once", "tok_lost_answer"];
    let token = dice.pick(&tokens);
    let offer = |number| Offer {
        sku: "SKU".into(),
        title: "Title".into(),
        price: Money::new(PRICE, Currency::GBP),
        tracked: number + 1 < PRODUCTS,
        archived: false,
    };
    let offers: HashMap<_, _> = (0..PRODUCTS).map(|number| (product(number), offer(number))).collect();
    Placement {
        id: OrderId::from_uuid(Uuid::nil()),
        customer: UserId::from_uuid(Uuid::from_u128(3 << 64 | u128::from(number))),
        actor: format!("users/{number}"),
        priced: price(&wanted, &offers).unwrap(),
        address: Address {
            recipient: String::new(),
            address_lines: Vec::new(),
            locality: String::new(),
            administrative_area: String::new(),
            postal_code: String::new(),
            region_code: "GB".into(),
        },
        external_id: None,
        payment_token: token.into(),
        place_time: None,
    }
}

fn wish(state: &mut State, id: OrderId) -> (&'static str, Ask) {
    let dice = &mut state.dice;
    let pieces = vec![Pieces { number: dice.from(1..4) as i32, quantity: dice.from(1..3) as i64 }];
    match dice.from(0..8) {
        0 | 1 => ("CancelOrder", Ask::Cancel(id, Vec::new())),
        2 => ("CancelOrder", Ask::Cancel(id, pieces)),
        3 | 4 => ("ReturnOrderItems", Ask::Adjust(id, What::Return(pieces))),
        5 => {
            let amount = Money::new(dice.from(1..200) as i64, Currency::GBP);
            ("RefundOrder", Ask::Adjust(id, What::Refund(amount)))
        }
        6 => ("CreateShipment", Ask::Ship(id, pieces)),
        _ => ("AddOrderNote", Ask::Note(id)),
    }
}

/// Sends a request a few times until there is a response. Sometimes it sends two requests at once.
async fn insist(world: &Arc<World>, key: Key, ask: Ask) -> Option<Reply> {
    for _ in 0..12 {
        let (limit, pause, twice) = {
            let mut state = world.state();
            (state.dice.millis(500..40_000), state.dice.millis(100..3_000), state.dice.percent(10))
        };
        let told = if twice {
            let first = timeout(limit, once(world, key.clone(), ask.clone()));
            let second = timeout(limit, once(world, key.clone(), ask.clone()));
            let (first, second) = tokio::join!(biased; first, second);
            first.ok().filter(|told| *told != Reply::Again).or(second.ok())
        } else {
            timeout(limit, once(world, key.clone(), ask.clone())).await.ok()
        };
        if let Some(told) = told.filter(|told| *told != Reply::Again) {
            return Some(told);
        }
        sleep(pause).await;
    }
    None
}

/// Sends a request to one of the replicas.
async fn once(world: &Arc<World>, key: Key, mut ask: Ask) -> Reply {
    let service = {
        let mut state = world.state();
        // A repeated request gets another order id, so that the check notices if the request was taken for a new one.
        if let Ask::Place(placement) = &mut ask {
            placement.id = OrderId::from_uuid(Uuid::from_u128(u128::from(state.dice.next())));
        }
        any(&mut state)
    };
    let Some(service) = service else { return Reply::Again };
    let name = key.key.clone();
    let told = service.ask(key, ask).await;
    let mut state = world.state();
    state.tell(|| format!("{name} is told {told:?}"));
    if let Reply::Done(answer) = &told {
        let first = state.answers.entry(name.clone()).or_insert_with(|| answer.clone()).clone();
        if first != *answer {
            state.broke(format!("{name} was answered in two ways"));
        }
    }
    told
}

/// A replica that is running.
fn any(state: &mut State) -> Option<Service> {
    let replica = state.dice.from(0..REPLICAS as u64) as usize;
    state.replicas[replica].service.clone()
}

/// Injects faults until the world becomes quiet.
pub async fn mischief(world: Arc<World>) {
    loop {
        let (pause, what, replica) = {
            let mut state = world.state();
            if state.quiet {
                return;
            }
            (state.dice.millis(100..3_000), state.dice.from(0..16), state.dice.from(0..REPLICAS as u64) as usize)
        };
        sleep(pause).await;
        let mut state = world.state();
        match what {
            0 => {
                state.count("killed", "replica");
                state.kill(replica);
            }
            1 => {
                if let Some(service) = state.replicas[replica].service.clone() {
                    state.count("drained", "replica");
                    tokio::spawn(async move { service.drain().await });
                }
            }
            2..5 => {
                let (peer, length) = (state.dice.pick(&Peer::ALL).name(), state.dice.millis(500..12_000));
                state.tell(|| format!("{peer} is down for {length:?}"));
                state.down.insert(peer, Instant::now() + length);
            }
            5 => Wire::close_lapsed(&mut state),
            _ => {
                let Some(service) = any(&mut state) else { continue };
                // Pick an order whose saga runs, or an ended order if none runs.
                let (running, ended): (Vec<_>, Vec<_>) =
                    state.journal.orders.values().partition(|row| row.it.step.is_some());
                let ids: Vec<OrderId> =
                    if running.is_empty() { ended } else { running }.into_iter().map(|row| row.it.id).collect();
                if ids.is_empty() {
                    continue;
                }
                let id = state.dice.pick(&ids);
                drop(state);
                tokio::spawn(operate(service, what, id));
            }
        }
    }
}

async fn operate(service: Service, what: u64, id: OrderId) {
    let replica = service.wire.replica;
    match what {
        6..9 => {
            service.abandon(id).await;
        }
        9..12 => {
            let retry = move |state: &mut State| {
                let now = state.now_at(replica);
                let backs = state.journal.adjustments.values().filter(|row| row.it.order == id);
                let back = backs.map(|row| row.it.id).next_back();
                let State { journal, log, .. } = state;
                journal.retry((id, back), now, log) || journal.retry((id, None), now, log)
            };
            service.wire.call((Peer::Journal, "retry"), id, retry).await;
        }
        _ => service.heed(id).await,
    }
}

/// An operator who looks at stuck sagas from time to time. The operator manually settles what the provider does not do,
/// and abandons orders that are not paid. A provider cannot refund a payment that was settled manually, so the operator
/// also refunds it manually, even after the faults have stopped.
pub async fn operator(world: Arc<World>) {
    loop {
        let pause = world.state().dice.millis(200..3_000);
        sleep(pause).await;
        let (seen, pause) = {
            let mut state = world.state();
            let running = running(&state);
            if running.is_empty() {
                continue;
            }
            let (id, back, at, refused) = state.dice.pick(&running);
            if !refused && (state.quiet || state.dice.percent(50)) {
                continue;
            }
            // Now and then the operator mistakes one step for another.
            let mistaken = state.dice.percent(10);
            let step = if mistaken { state.dice.pick(&[Step::Capture, Step::Void, Step::Refund]) } else { at };
            ((id, back, step), state.dice.millis(1..3_000))
        };
        sleep(pause).await;
        let service = any(&mut world.state());
        if let Some(service) = service {
            let (id, back, step) = seen;
            // A task of its own, because the call never returns if the replica dies.
            tokio::spawn(async move {
                match step.can_be_done_manually() {
                    true => service.finish_manually((id, back), step).await,
                    false => drop(service.abandon(id).await),
                }
            });
        }
    }
}

/// Sagas that had failed tries or are at a step about money, with their steps. The flag is true if the provider will
/// never do what the step asks.
fn running(state: &State) -> Vec<(OrderId, Option<ReturnId>, Step, bool)> {
    let orders = state.journal.orders.values().map(|row| (&row.it, None, row.it.step, row.it.attempts));
    let adjustments = state.journal.adjustments.values().filter_map(|row| {
        let order = &state.journal.orders.get(&row.it.order)?.it;
        Some((order, Some(row.it.id), row.it.step, row.it.attempts))
    });
    let sagas = orders.chain(adjustments).filter_map(|(order, back, step, attempts)| {
        let manual = order.payment.as_ref().is_some_and(|payment| payment.settled_manually);
        let refused = manual && step == Some(Step::Refund);
        let seen = attempts > 0 || step?.can_be_done_manually();
        seen.then_some((order.id, back, step?, refused))
    });
    sagas.collect()
}

/// Longer than any late message takes.
pub const LONG: Duration = Duration::from_secs(3_600);
