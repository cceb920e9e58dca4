//! The promises that must hold once the faults have stopped and all work has ended.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use souk_common::ids::{OrderId, ProductId};
use souk_inventory::domain::{
    command::Action,
    reservation::{Reservation, State as Held},
};

use super::{log::Published, world::State as World};
use crate::{
    domain::{Entry, Facts, Goods, Kind, Order, Outcome, State, Step, advance, begin},
    events,
    store::{TimelineRow, payments::BookedState},
};

/// Checks every promise, and records those that are broken.
pub fn check(world: &mut World) {
    let mut broken = Vec::new();
    for row in world.journal.orders.values() {
        let order = &row.it;
        let name = order.id;
        let timeline = world.journal.timelines.get(&name).map_or(&[][..], Vec::as_slice);
        let faults = [ended(order), paid(world, order), stocked(world, order, timeline), told(order, timeline)];
        broken.extend(faults.into_iter().flatten().map(|fault| format!("{name}: {fault}")));
        for read in [&world.log.inbox, &world.log.stream] {
            broken.extend(followed(name, timeline, read).map(|fault| format!("{name}: {fault}")));
        }
    }
    broken.extend(placed_once(world));
    broken.extend(answered(world));
    broken.extend(on_hand(world));
    for read in [&world.log.inbox, &world.log.stream] {
        let positions = read.iter().map(|event| event.position);
        if !positions.eq(1..=world.log.events.len() as i64) {
            broken.push("events were missed, or read twice, or in another order".to_owned());
        }
    }
    // Expires all open reservations. None of them belongs to a running order any more.
    let far = world.now() + TimeDelta::days(30);
    for order in world.shelf.reservations.keys().copied().collect::<Vec<_>>() {
        let _ = world.shelf.run(far, Action::Expire { order });
    }
    if world.shelf.stock.values().any(|level| level.reserved != 0) {
        broken.push("stock is held for ever".to_owned());
    }
    broken.into_iter().for_each(|promise| world.broke(promise));
}

fn ended(order: &Order) -> Option<String> {
    let end = matches!(order.state, State::Confirmed | State::Rejected | State::Cancelled) && order.step.is_none();
    let nothing_runs = (order.pending_returns, order.refunding) == (0, 0);
    (!end || !nothing_runs).then(|| {
        let (state, step) = (order.state, order.step);
        format!("it has not ended: {state:?} {step:?} {} {}", order.pending_returns, order.refunding)
    })
}

/// Checks that the provider's captures and refunds match the order.
fn paid(world: &World, order: &Order) -> Option<String> {
    let key = order.payment_key();
    let booked = world.bank.payments.get(&key);
    let taken = booked.filter(|booked| booked.state == BookedState::Captured).map_or(0, |booked| booked.amount);
    let back = booked.map_or(0, |booked| booked.refunded);
    let of_it = |refunds: &BTreeMap<String, (String, i64)>| -> i64 {
        refunds.values().filter(|refund| refund.0 == key).map(|refund| refund.1).sum()
    };
    let refunds = of_it(&world.bank.refunds);
    if back != refunds {
        return Some(format!("{back} were given back, by refunds of {refunds}"));
    }
    // Manual settlements count as well, but are recorded separately.
    let manual = (world.bank.manual_captures.get(&key).copied(), of_it(&world.bank.manual_refunds));
    let said =
        order.payment.as_ref().map_or((false, 0), |payment| (payment.settled_manually, payment.refunded_manually));
    if manual.0.is_some() && !said.0 || manual.1 > said.1 {
        return Some(format!("{manual:?} were settled manually; it says {said:?}"));
    }
    let (taken, back) = (taken + manual.0.unwrap_or_default(), back + manual.1);
    let (right, kept) = match order.state {
        State::Rejected => (0, 0),
        State::Cancelled => (order.total, order.total),
        _ => (order.total, order.refunded),
    };
    if (taken, back, order.refunded) != (right, kept, kept) {
        return Some(format!(
            "{:?} of {}: {taken} were taken, {back} given back; it says {}",
            order.state, order.total, order.refunded
        ));
    }
    let held = booked.is_some_and(|booked| booked.state == BookedState::Authorized);
    held.then(|| "money is held for ever".to_owned())
}

/// Checks that the sales and returns in inventory match the order.
fn stocked(world: &World, order: &Order, timeline: &[TimelineRow]) -> Option<String> {
    let held = world.shelf.reservations.get(&order.id);
    let gone = held.filter(|held| held.state == Held::Committed).map_or(Vec::new(), sold);
    let goods = if order.state == State::Confirmed { order.goods() } else { Vec::new() };
    if gone != goods {
        return Some(format!("{:?} with {goods:?}, but inventory sold {gone:?}", order.state));
    }
    let released = timeline.iter().any(|row| row.entry.kind == Kind::StockReleased);
    let state = held.map(|held| held.state);
    (released && state.is_some_and(|state| state != Held::Released))
        .then(|| format!("its stock was released for good, but is {state:?}"))
}

fn sold(held: &Reservation) -> Vec<Goods> {
    Goods::sum(held.lines.iter().map(|line| (line.product, line.quantity - line.returned)))
}

/// Checks that timeline entries are numbered from 1 and follow the saga's table.
fn told(order: &Order, timeline: &[TimelineRow]) -> Option<String> {
    let numbers = timeline.iter().map(|row| row.number);
    if !numbers.eq(1..=order.entries) {
        return Some(format!("its timeline has gaps: {:?}", kinds(timeline)));
    }
    let aside =
        |kind: &Kind| matches!(kind, Kind::Note | Kind::RetryRequested | Kind::Shipped | Kind::FinishedManually);
    let kinds: Vec<Kind> = kinds(timeline).into_iter().filter(|kind| !aside(kind)).collect();
    let placed = kinds.iter().position(|kind| matches!(kind, Kind::Confirmed | Kind::Rejected));
    let (placing, later) = kinds.split_at(placed.map_or(kinds.len(), |at| at + 1));
    let whole = later.iter().position(|kind| *kind == Kind::CancelRequested).unwrap_or(later.len());
    let (between, cancelling) = later.split_at(whole);
    let legal = leads((None, State::Pending), placing)
        && adjusts(between)
        && (cancelling.is_empty() || leads((Some(State::Confirmed), State::Cancelling), cancelling));
    (!legal).then(|| format!("the table does not lead so: {kinds:?}"))
}

fn kinds(timeline: &[TimelineRow]) -> Vec<Kind> {
    timeline.iter().map(|row| row.entry.kind).collect()
}

fn all_facts() -> impl Iterator<Item = Facts> {
    (0..16).map(|bits| Facts { goods: bits & 1 > 0, held: bits & 2 > 0, authorized: bits & 4 > 0, money: bits & 8 > 0 })
}

/// True if the table allows these entries from a beginning to a final state.
fn leads((from, state): (Option<State>, State), kinds: &[Kind]) -> bool {
    all_facts().filter_map(|facts| begin(from, state, facts).ok()).any(|position| {
        kinds.strip_prefix(&*position.kinds).is_some_and(|rest| goes_on(position.state, position.step, rest))
    })
}

fn goes_on(state: State, step: Option<Step>, kinds: &[Kind]) -> bool {
    use Outcome::{Abandoned, AlreadyCommitted, Done, OutOfStock, Refused};
    let Some(step) = step else { return kinds.is_empty() };
    let mut tried = BTreeSet::new();
    [Done, OutOfStock, Refused, AlreadyCommitted, Abandoned].into_iter().any(|outcome| {
        all_facts().filter_map(|facts| advance(state, step, outcome, facts).ok()).any(|next| {
            tried.insert(format!("{next:?}"))
                && kinds.strip_prefix(&*next.kinds).is_some_and(|rest| goes_on(next.state, next.step, rest))
        })
    })
}

/// True if each adjustment was requested before it continued, and ended.
fn adjusts(kinds: &[Kind]) -> bool {
    let count = |kinds: &[Kind], kind| kinds.iter().filter(|is| **is == kind).count();
    let pairs = [
        (Kind::ReturnRequested, Kind::ReturnCompleted),
        (Kind::ItemsCancelRequested, Kind::ItemsCancelled),
        (Kind::RefundRequested, Kind::RefundCompleted),
    ];
    let in_order = (0..=kinds.len()).map(|end| &kinds[..end]).all(|kinds| {
        let goods = count(kinds, Kind::ReturnRequested) + count(kinds, Kind::ItemsCancelRequested);
        let all = goods + count(kinds, Kind::RefundRequested);
        pairs.iter().all(|pair| count(kinds, pair.1) <= count(kinds, pair.0))
            && count(kinds, Kind::StockReturned) <= goods
            && count(kinds, Kind::PaymentRefunded) <= all
    });
    in_order && pairs.iter().all(|pair| count(kinds, pair.1) == count(kinds, pair.0))
}

/// Checks that consumers of the log read the timeline's events, each once and in order.
fn followed(order: OrderId, timeline: &[TimelineRow], read: &[Published]) -> Option<String> {
    let seen: Vec<_> = read.iter().filter(|event| event.order == order).map(|event| event.kind).collect();
    let event = |row: &TimelineRow| -> Option<&'static str> {
        let Entry { kind, .. } = row.entry;
        events::event(kind)
    };
    let happened: Vec<_> = timeline.iter().filter_map(event).collect();
    (seen != happened).then(|| format!("{happened:?} happened, and a reader saw {seen:?}"))
}

fn placed_once(world: &World) -> Option<String> {
    let orders = world.journal.orders.values();
    let mut customers: Vec<_> = orders.map(|row| row.it.customer).collect();
    let all = customers.len();
    customers.sort_unstable();
    customers.dedup();
    if customers.len() < all {
        return Some("one request made two orders".to_owned());
    }
    let known: BTreeSet<String> = world.journal.orders.values().map(|row| row.it.payment_key()).collect();
    let paid = world.bank.payments.keys().find(|key| !known.contains(*key));
    paid.map(|key| format!("{key} was paid, and is no order"))
}

/// Checks that each recorded request has a response, and that no client got a different one.
fn answered(world: &World) -> Vec<String> {
    let stored: BTreeMap<&str, Option<&[u8]>> =
        world.journal.keys.iter().map(|(key, kept)| (key.2.as_str(), kept.response.as_deref())).collect();
    let open = stored.iter().filter(|(_, response)| response.is_none());
    let open = open.map(|(name, _)| format!("{name} has no answer"));
    let other = world.answers.iter().filter(|(name, answer)| stored.get(name.as_str()) != Some(&Some(answer)));
    open.chain(other.map(|(name, _)| format!("{name} was told one thing, and another is stored"))).collect()
}

/// Checks that the stock on hand is the stock at the start less the sales.
fn on_hand(world: &World) -> Option<String> {
    let mut sold = BTreeMap::<ProductId, i64>::new();
    for row in world.journal.orders.values().filter(|row| row.it.state == State::Confirmed) {
        for goods in row.it.goods() {
            *sold.entry(goods.product).or_default() += goods.quantity;
        }
    }
    world.shelf.start.iter().find_map(|(product, start)| {
        let (is, sold) = (world.shelf.on_hand(*product), sold.get(product).copied().unwrap_or_default());
        (is != start - sold).then(|| format!("{product}: {start} less {sold} sold are not {is}"))
    })
}
