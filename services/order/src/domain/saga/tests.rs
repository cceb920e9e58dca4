//! Tests the saga against a model of inventory and the payment provider. Whatever happens, the saga must end, and stock
//! and money must add up.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use chrono::Utc;
use proptest::prelude::*;
use souk_common::{
    ids::{OrderId, ProductId, UserId},
    money::{Currency, Money},
};

use super::super::{
    Action, Address, Adjustment, Answer, CancelRefusal, Cancelling as Cancel, Cause, Entry, Goods, Kind, Line, Order,
    PaymentState, Pieces, Placement, Priced, Refusal, SERVICE_ACTOR, Saga, Shipment, Tracking, What, Wish,
};
use super::{super::Move, *};

/// A model of inventory and the payment provider. Both are idempotent.
#[derive(Debug, Default)]
struct World {
    /// Available pieces of every product.
    free: HashMap<ProductId, i64>,
    reservation: Option<(Hold, Vec<Goods>)>,
    restocked: Vec<String>,
    back: i64,
    payment: Option<(Money3, i64)>,
    refunds: HashMap<String, i64>,
    decline: bool,
    refuse_capture: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Open,
    Expired,
    Committed,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Money3 {
    Declined,
    Authorized,
    Captured,
    Voided,
}

fn short() -> Answer {
    Answer::OutOfStock { message: "short".into(), items: vec![] }
}

fn refused() -> Answer {
    Answer::Refused { provider: "model".into(), message: "no".into() }
}

impl World {
    /// Removes goods from the available stock, all of them or none.
    fn take(&mut self, goods: &[Goods]) -> bool {
        let fits = goods.iter().all(|goods| self.free.get(&goods.product).copied().unwrap_or(0) >= goods.quantity);
        if fits {
            for goods in goods {
                *self.free.entry(goods.product).or_default() -= goods.quantity;
            }
        }
        fits
    }

    fn give(&mut self, goods: &[Goods]) {
        for goods in goods {
            *self.free.entry(goods.product).or_default() += goods.quantity;
        }
    }

    fn expire(&mut self) {
        if let Some((Hold::Open, goods)) = self.reservation.clone() {
            self.give(&goods);
            self.reservation = Some((Hold::Expired, goods));
        }
    }

    fn act(&mut self, action: &Action) -> Answer {
        match action {
            Action::Reserve { goods } => match self.reservation.clone() {
                Some((Hold::Open | Hold::Committed, _)) => Answer::Done,
                Some((Hold::Released, _)) => short(),
                Some((Hold::Expired, _)) | None => {
                    if !self.take(goods) {
                        return short();
                    }
                    self.reservation = Some((Hold::Open, goods.clone()));
                    Answer::Done
                }
            },
            Action::Commit => match self.reservation.clone() {
                Some((Hold::Open | Hold::Committed, goods)) => {
                    self.reservation = Some((Hold::Committed, goods));
                    Answer::Done
                }
                Some((Hold::Expired, goods)) if self.take(&goods) => {
                    self.reservation = Some((Hold::Committed, goods));
                    Answer::Done
                }
                _ => short(),
            },
            Action::Release => match self.reservation.clone() {
                Some((Hold::Committed, _)) => Answer::AlreadyCommitted,
                Some((Hold::Open, goods)) => {
                    self.give(&goods);
                    self.reservation = Some((Hold::Released, goods));
                    Answer::Done
                }
                other => {
                    let goods = other.map(|(_, goods)| goods).unwrap_or_default();
                    self.reservation = Some((Hold::Released, goods));
                    Answer::Done
                }
            },
            Action::Restock { request_id, goods } => {
                assert!(matches!(self.reservation, Some((Hold::Committed, _))), "nothing was sold");
                if !self.restocked.contains(request_id) {
                    self.restocked.push(request_id.clone());
                    self.back += goods.iter().map(|goods| goods.quantity).sum::<i64>();
                    self.give(goods);
                }
                Answer::Done
            }
            Action::Authorize { amount, .. } => {
                let fresh = if self.decline { Money3::Declined } else { Money3::Authorized };
                let (state, _) = *self.payment.get_or_insert((fresh, amount.minor));
                match state {
                    Money3::Declined => refused(),
                    _ => Answer::Authorized { provider: "model".into(), reference: "ref".into() },
                }
            }
            Action::Capture { .. } => {
                let held = self.reservation.as_ref().map(|(hold, _)| *hold);
                assert!(matches!(held, None | Some(Hold::Committed)), "captured before committed");
                let (state, _) = self.payment.as_mut().unwrap();
                match state {
                    Money3::Authorized if self.refuse_capture => refused(),
                    Money3::Authorized | Money3::Captured => {
                        *state = Money3::Captured;
                        Answer::Done
                    }
                    Money3::Voided | Money3::Declined => refused(),
                }
            }
            Action::Void { .. } => {
                let (state, _) = self.payment.get_or_insert((Money3::Authorized, 0));
                assert_ne!(*state, Money3::Captured, "voided what was taken");
                *state = Money3::Voided;
                Answer::Done
            }
            Action::Refund { key, amount, .. } => {
                let (state, taken) = self.payment.unwrap();
                assert_eq!(state, Money3::Captured, "refunded what was not taken");
                self.refunds.insert(key.clone(), amount.minor);
                assert!(self.refunded() <= taken, "more back than was taken");
                Answer::Done
            }
        }
    }

    fn refunded(&self) -> i64 {
        self.refunds.values().sum()
    }
}

/// The fault at one try of one step.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// No fault.
    None,
    /// The request never arrives.
    LostRequest,
    /// The step takes effect, but the response is lost.
    LostAnswer,
    /// The step takes effect and the runner dies. Another one continues from what is stored.
    Died,
    /// A second runner runs the same step at the same time. One of them stores the result.
    Twice,
    /// The reservation expires, and another customer buys all available stock.
    SoldOut,
    /// The reservation expires.
    Expired,
    /// The runner dies, and an operator abandons the order as it is stored, if that is possible.
    Abandoned,
    /// An operator does the step in the provider's own dashboard, if that is possible.
    Manual,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        4 => Just(Mishap::None),
        1 => Just(Mishap::LostRequest),
        2 => Just(Mishap::LostAnswer),
        2 => Just(Mishap::Died),
        1 => Just(Mishap::Twice),
        1 => Just(Mishap::SoldOut),
        1 => Just(Mishap::Expired),
        1 => Just(Mishap::Abandoned),
        1 => Just(Mishap::Manual),
    ]
}

/// Runs a saga to its end. `outside` counts the pieces that other customers buy.
fn drive(
    saga: &mut Saga,
    world: &mut World,
    mishaps: &mut impl Iterator<Item = Mishap>,
    outside: &mut i64,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut unclear = false;
    // The saga as it is stored, and the number of entries by then.
    let mut stored = (saga.clone(), 0);
    for _ in 0..10_000 {
        let (_, Some(step)) = saga.position() else {
            assert!(saga.action().is_none());
            return entries;
        };
        let action = saga.action().unwrap();
        let answer = match mishaps.next().unwrap_or(Mishap::None) {
            Mishap::LostRequest => {
                unclear = true;
                continue;
            }
            Mishap::LostAnswer => {
                world.act(&action);
                unclear = true;
                continue;
            }
            Mishap::Died => {
                world.act(&action);
                saga.clone_from(&stored.0);
                entries.truncate(stored.1);
                unclear = true;
                continue;
            }
            Mishap::Twice => {
                let first = world.act(&action);
                assert_eq!(first, world.act(&action), "a step repeated answers the same");
                first
            }
            Mishap::SoldOut => {
                world.expire();
                for free in world.free.values_mut() {
                    *outside += std::mem::take(free);
                }
                world.act(&action)
            }
            Mishap::Expired => {
                world.expire();
                world.act(&action)
            }
            Mishap::Abandoned => {
                saga.clone_from(&stored.0);
                entries.truncate(stored.1);
                unclear = true;
                let abandoned = match saga {
                    Saga::Order(order) => order.abandon(STAFF, "model", Utc::now()),
                    Saga::Adjustment(_) => continue,
                };
                if let Ok(abandoned) = abandoned {
                    entries.extend(abandoned);
                    stored = (saga.clone(), entries.len());
                    unclear = false;
                }
                continue;
            }
            Mishap::Manual => {
                let before = saga.clone();
                if !step.can_be_done_manually() {
                    assert!(finish(saga, step).is_err(), "{step:?} is not money's");
                    assert_eq!(before, *saga);
                } else if world.act(&action) == Answer::Done {
                    entries.extend(finish(saga, step).unwrap());
                    stored = (saga.clone(), entries.len());
                }
                continue;
            }
            Mishap::None => world.act(&action),
        };
        let before = saga.clone();
        entries.extend(saga.advance(&answer, unclear.then_some("model"), Utc::now()).unwrap());
        assert_ne!(before.position(), saga.position(), "a step that leads nowhere");
        unclear = false;
        if !saga.may_wait() {
            stored = (saga.clone(), entries.len());
        }
    }
    panic!("no end: {saga:?}");
}

fn finish(saga: &mut Saga, step: Step) -> Result<Vec<Entry>, Illegal> {
    match saga {
        Saga::Order(order) => order.finish(step, STAFF, Utc::now()),
        Saga::Adjustment(adjustment) => adjustment.finish(step, STAFF),
    }
}

fn line(number: i32, quantity: i64, unit_price: i64, tracked: bool) -> Line {
    Line {
        number,
        product: ProductId::new(),
        sku: "SKU".into(),
        title: "Title".into(),
        quantity,
        unit_price,
        total: quantity * unit_price,
        returned: 0,
        returned_shipped: 0,
        cancelled: 0,
        shipped: 0,
        tracked,
    }
}

fn place(lines: Vec<Line>) -> Order {
    let total = lines.iter().map(|line| line.total).sum();
    let placement = Placement {
        id: OrderId::new(),
        customer: UserId::new(),
        actor: "users/usr_x".into(),
        priced: Priced { lines, total: Money::new(total, Currency::GBP) },
        address: Address {
            recipient: "Ada".into(),
            address_lines: vec![],
            locality: String::new(),
            administrative_area: String::new(),
            postal_code: String::new(),
            region_code: "GB".into(),
        },
        external_id: None,
        payment_token: "tok".into(),
        place_time: None,
    };
    let (order, entries) = Order::place(placement, Utc::now()).unwrap();
    assert_eq!(entries[0].kind, Kind::Placed);
    order
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    prop::collection::vec((1_i64..5, 0_i64..300, any::<bool>()), 1..4).prop_map(|lines| {
        lines
            .into_iter()
            .zip(1..)
            .map(|((quantity, price, tracked), number)| line(number, quantity, price, tracked))
            .collect()
    })
}

fn order_of(saga: Saga) -> Order {
    match saga {
        Saga::Order(order) => *order,
        Saga::Adjustment(_) => panic!("an adjustment"),
    }
}

const STAFF: Wish<'_> = Wish { actor: "users/usr_s", reason: "broken", etag: "" };

/// A change that is requested of a confirmed order.
#[derive(Clone, Debug)]
enum Ask {
    Return(Pieces),
    Cancel(Pieces),
    Ship(Pieces),
    Refund(i64),
}

fn ask() -> impl Strategy<Value = Ask> {
    let pieces = || (1..4_i32, 1..3_i64).prop_map(|(number, quantity)| Pieces { number, quantity });
    prop_oneof![
        2 => pieces().prop_map(Ask::Return),
        2 => pieces().prop_map(Ask::Cancel),
        2 => pieces().prop_map(Ask::Ship),
        1 => (1..400_i64).prop_map(Ask::Refund),
    ]
}

/// Checks that the order's pieces and amounts are consistent.
fn sound(order: &Order) {
    assert!(order.refunded >= 0 && order.refunding >= 0 && order.refundable() >= 0, "{order:?}");
    let manual = order.payment.as_ref().map_or(0, |payment| payment.refunded_manually);
    assert!((0..=order.refunded).contains(&manual), "{order:?}");
    for line in &order.lines {
        let never = [line.returned_shipped > line.shipped, line.returned_shipped > line.returned];
        assert!(line.open() >= 0 && line.sold() >= line.open() && !never.contains(&true), "{line:?}");
    }
}

/// The number of pieces whose stock is tracked.
fn counted(order: &Order, pieces: impl Fn(&Line) -> i64) -> i64 {
    order.lines.iter().filter(|line| line.tracked).map(pieces).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_saga_ends_and_stock_and_money_add_up(
        lines in lines(),
        stock in 0_i64..8,
        (decline, refuse_capture) in (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        mishaps in prop::collection::vec(mishap(), 0..25),
        asks in prop::collection::vec(ask(), 0..8),
        cancel: bool,
    ) {
        let tracked: i64 = lines.iter().filter(|line| line.tracked).count().try_into().unwrap();
        let all = tracked * stock;
        let mut world = World { decline, refuse_capture, ..World::default() };
        for line in lines.iter().filter(|line| line.tracked) {
            world.free.insert(line.product, stock);
        }
        let mut outside = 0;
        let mut mishaps = mishaps.into_iter();

        let mut saga = Saga::Order(Box::new(place(lines)));
        let placed = drive(&mut saga, &mut world, &mut mishaps, &mut outside);
        let mut order = order_of(saga);
        prop_assert_eq!(i32::try_from(placed.len()).unwrap() + 1, order.entries);
        prop_assert!(order.payment_token.is_none(), "the token is kept");
        let bought: i64 = order.lines.iter().filter(|line| line.tracked).map(|line| line.quantity).sum();
        let ended = placed.last().unwrap().kind;
        match order.state {
            State::Rejected => {
                prop_assert_eq!(ended, Kind::Rejected);
                prop_assert!(order.rejection.is_some());
                // A reservation that is still open expires now. After a step with an unclear result, none is open: the
                // saga has released it permanently.
                world.expire();
                let free: i64 = world.free.values().sum();
                prop_assert_eq!(free + outside, all, "stock went missing");
                prop_assert!(!matches!(world.payment, Some((Money3::Authorized | Money3::Captured, _))));
                let here = order.payment.as_ref().map(|payment| payment.state);
                prop_assert!(!matches!(here, Some(PaymentState::Authorized | PaymentState::Captured)));
                return Ok(());
            }
            State::Confirmed => {
                prop_assert_eq!(ended, Kind::Confirmed);
                prop_assert!(order.rejection.is_none());
                prop_assert_eq!(world.payment, Some((Money3::Captured, order.total)));
                let free: i64 = world.free.values().sum();
                prop_assert_eq!(free + outside + bought, all, "stock went missing");
            }
            other => prop_assert!(false, "ended in {other:?}"),
        }

        // Returns, refunds and shipments of what is left of the order.
        for ask in asks {
            let before = order.clone();
            let what = match ask {
                Ask::Ship(pieces) => {
                    let tracking = Tracking { carrier: String::new(), number: String::new(), url: String::new() };
                    let left = order.lines.iter().find(|line| line.number == pieces.number).map_or(0, Line::open);
                    let now = Utc::now();
                    let shipped = Shipment::begin(&mut order, &[pieces], tracking, "users/usr_s", None, now);
                    let possible = before.state == State::Confirmed && pieces.quantity <= left;
                    prop_assert_eq!(shipped.is_ok(), possible, "{:?}", shipped);
                    sound(&order);
                    continue;
                }
                Ask::Cancel(pieces) => {
                    let mut saga = match order.cancel(&[pieces], STAFF, Utc::now()).unwrap() {
                        Ok(Cancel::Items(adjustment, _)) => Saga::Adjustment(adjustment),
                        Ok(Cancel::Whole(_)) => {
                            prop_assert!(order.lines.iter().all(|line| line.shipped == 0));
                            Saga::Order(Box::new(order.clone()))
                        }
                        Ok(Cancel::Already) => {
                            prop_assert_eq!(order.state, State::Cancelled);
                            continue;
                        }
                        Err(_) => {
                            prop_assert_eq!(&before, &order);
                            continue;
                        }
                    };
                    sound(&order);
                    let entries = drive(&mut saga, &mut world, &mut mishaps, &mut outside);
                    match saga {
                        Saga::Order(cancelled) => order = *cancelled,
                        Saga::Adjustment(done) if !entries.is_empty() => {
                            order.take_adjustment(&done, entries.len(), Utc::now());
                        }
                        Saga::Adjustment(_) => {}
                    }
                    sound(&order);
                    continue;
                }
                Ask::Return(pieces) => What::Return(vec![pieces]),
                Ask::Refund(minor) => What::Refund(Money::new(minor, Currency::GBP)),
            };
            let Ok((begun, _)) = Adjustment::begin(&mut order, &what, STAFF, None, Utc::now()).unwrap() else {
                prop_assert_eq!(&before, &order);
                continue;
            };
            prop_assert_eq!(before.state, State::Confirmed);
            sound(&order);
            let mut saga = Saga::Adjustment(Box::new(begun));
            let entries = drive(&mut saga, &mut world, &mut mishaps, &mut outside);
            let Saga::Adjustment(done) = saga else { panic!("an order") };
            prop_assert_eq!(done.state, State::Completed);
            if !entries.is_empty() {
                order.take_adjustment(&done, entries.len(), Utc::now());
            }
            sound(&order);
        }
        prop_assert_eq!((order.pending_returns, order.refunding), (0, 0));
        prop_assert_eq!(order.refunded, world.refunded());
        prop_assert_eq!(world.back, counted(&order, |line| line.returned + line.cancelled));

        if cancel {
            let shipped = order.lines.iter().any(|line| line.shipped > 0);
            match order.cancel(&[], STAFF, Utc::now()).unwrap() {
                Ok(Cancel::Whole(_)) => prop_assert!(!shipped),
                Ok(Cancel::Already) => {}
                Ok(Cancel::Items(..)) => prop_assert!(false, "nothing was named"),
                Err(refusal) => {
                    prop_assert!(shipped);
                    prop_assert_eq!(refusal, CancelRefusal::Shipped);
                    return Ok(());
                }
            }
            let mut saga = Saga::Order(Box::new(order));
            drive(&mut saga, &mut world, &mut mishaps, &mut outside);
            let order = order_of(saga);
            prop_assert_eq!(order.state, State::Cancelled);
            prop_assert_eq!(order.refunded, order.total);
            prop_assert_eq!(world.refunded(), order.total);
            prop_assert_eq!(world.back, bought);
            let free: i64 = world.free.values().sum();
            prop_assert_eq!(free + outside, all, "stock went missing");
        }
    }

    #[test]
    fn transitions_outside_the_table_are_refused(
        at in (0..9_usize, 0..8_usize, 0..5_usize),
        facts in any::<(bool, bool, bool, bool)>(),
    ) {
        let states = [
            Pending, Confirmed, Rejected, Cancelling, Cancelled, Returning, CancellingItems, Refunding, Completed,
        ];
        let state = states[at.0];
        let step = [Reserve, Authorize, Commit, Capture, Release, Void, Restock, Refund][at.1];
        let outcome = [Done, OutOfStock, Refused, AlreadyCommitted, Abandoned][at.2];
        let (goods, held, authorized, money) = facts;
        let facts = Facts { goods, held, authorized, money };
        match advance(state, step, outcome, facts) {
            Ok(position) => {
                prop_assert!(state.is_running(), "a final state moved");
                prop_assert_eq!(position.state.is_running(), position.step.is_some());
                // A running state can only be left for its own final states.
                let end = match state {
                    Pending => vec![Pending, Confirmed, Rejected],
                    Cancelling => vec![Cancelling, Cancelled],
                    other => vec![other, Completed],
                };
                prop_assert!(end.contains(&position.state));
            }
            Err(illegal) => prop_assert!(illegal.to_string().contains("no transition")),
        }
    }
}

fn confirmed() -> Order {
    let mut world = World::default();
    let lines = vec![line(1, 3, 100, true), line(2, 1, 50, false)];
    world.free.insert(lines[0].product, 3);
    let mut saga = Saga::Order(Box::new(place(lines)));
    drive(&mut saga, &mut world, &mut std::iter::empty(), &mut 0);
    order_of(saga)
}

#[test]
fn a_saga_without_failures_records_each_step() {
    let mut world = World::default();
    let order = place(vec![line(1, 2, 100, true)]);
    world.free.insert(order.lines[0].product, 2);
    let mut saga = Saga::Order(Box::new(order));
    let entries = drive(&mut saga, &mut world, &mut std::iter::empty(), &mut 0);
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(
        kinds,
        [Kind::StockReserved, Kind::PaymentAuthorized, Kind::StockCommitted, Kind::PaymentCaptured, Kind::Confirmed,]
    );
}

#[test]
fn untracked_goods_need_no_reservation() {
    let mut saga = Saga::Order(Box::new(place(vec![line(1, 1, 100, false)])));
    let mut world = World::default();
    let entries = drive(&mut saga, &mut world, &mut std::iter::empty(), &mut 0);
    assert_eq!(world.reservation, None);
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::PaymentAuthorized, Kind::PaymentCaptured, Kind::Confirmed]);
}

#[test]
fn a_clear_shortage_needs_no_release_and_an_unclear_one_does() {
    for (unclear, state) in [(None, State::Rejected), (Some("model"), State::Pending)] {
        let mut order = place(vec![line(1, 1, 100, true)]);
        order.advance(&short(), unclear, Utc::now()).unwrap();
        assert_eq!(order.state, state, "{unclear:?}");
        // The runner before may have been further on.
        let held = order.payment.map(|payment| payment.state);
        assert_eq!(held, unclear.map(|_| PaymentState::Authorized));
    }
}

#[test]
fn more_pieces_than_are_left_cannot_be_returned() {
    let mut order = confirmed();
    let begin = |order: &mut Order, items: &[Pieces]| {
        Adjustment::begin(order, &What::Return(items.to_vec()), STAFF, None, Utc::now()).unwrap()
    };
    let two = [Pieces { number: 1, quantity: 2 }];
    let before = order.clone();
    let (back, _) = begin(&mut order, &two).unwrap();
    assert_eq!(back.refund, Money::new(200, Currency::GBP));
    assert_eq!((order.pending_returns, order.refunding), (1, 200));
    assert!(before.version < order.version);
    let again = begin(&mut order, &two);
    let Err(Refusal::Faults(faults)) = again else { panic!("{again:?}") };
    assert_eq!(faults[0].field, "items[0].quantity");
    assert!(faults[0].message.contains("at most 1"), "{}", faults[0].message);
    // A line that a request names twice counts with the sum of both.
    let one = Pieces { number: 1, quantity: 1 };
    assert!(begin(&mut order, &[one, one]).is_err());
}

#[test]
fn returned_unshipped_pieces_cannot_be_shipped_and_shipped_pieces_are_returned_first() {
    let mut order = confirmed();
    let line = &mut order.lines[0];
    line.quantity = 4;
    let pieces = |quantity| [Pieces { number: 1, quantity }];
    let mut book = |quantity, what| order.book(&pieces(quantity), "items", what).map(|_| ());
    // One piece is returned although no shipment names it. Three are left to ship.
    assert_eq!(book(1, Move::Return), Ok(()));
    assert!(book(4, Move::Ship).is_err());
    assert_eq!(book(2, Move::Ship), Ok(()));
    // Those two are returned. One piece is still open: it can be shipped or cancelled.
    assert_eq!(book(2, Move::Return), Ok(()));
    assert!(book(2, Move::Cancel).is_err());
    assert_eq!(book(1, Move::Cancel), Ok(()));
    assert!(book(1, Move::Ship).is_err() && book(1, Move::Return).is_err());
    let line = &order.lines[0];
    assert_eq!((line.shipped, line.returned, line.returned_shipped, line.cancelled), (2, 3, 2, 1));
    assert_eq!((line.open(), line.sold()), (0, 0));
}

#[test]
fn a_refund_without_goods_reduces_the_refund_of_later_returns() {
    let mut order = confirmed();
    let begin = |order: &mut Order, what| Adjustment::begin(order, &what, STAFF, None, Utc::now()).unwrap();
    let (refund, entries) = begin(&mut order, What::Refund(Money::new(300, Currency::GBP))).unwrap();
    assert_eq!((refund.cause, refund.step), (Cause::Refund, Some(Refund)));
    assert_eq!(entries[0].kind, Kind::RefundRequested);
    let (back, _) = begin(&mut order, What::Return(vec![Pieces { number: 1, quantity: 2 }])).unwrap();
    assert_eq!(back.refund, Money::new(50, Currency::GBP), "no more than what is left of 350");
    for (minor, currency, says) in
        [(1, Currency::GBP, "at most"), (0, Currency::GBP, "above zero"), (1, Currency::EUR, "in GBP")]
    {
        let refused = begin(&mut order, What::Refund(Money::new(minor, currency)));
        let Err(Refusal::Faults(faults)) = refused else { panic!("{refused:?}") };
        assert_eq!(faults[0].field, "amount");
        assert!(faults[0].message.contains(says), "{}", faults[0].message);
    }
}

#[test]
fn a_cancellation_checks_state_etag_shipments_and_running_returns() {
    let now = Utc::now();
    let wish = |etag| Wish { actor: "a", reason: "", etag };
    let mut pending = place(vec![line(1, 1, 1, true)]);
    assert_eq!(pending.cancel(&[], wish(""), now).unwrap(), Err(CancelRefusal::Busy));
    let mut order = confirmed();
    assert_eq!(order.cancel(&[], wish("0"), now).unwrap(), Err(CancelRefusal::EtagMismatch));
    order.pending_returns = 1;
    assert_eq!(order.cancel(&[], wish(""), now).unwrap(), Err(CancelRefusal::Busy));
    order.pending_returns = 0;
    order.lines[0].shipped = 1;
    assert_eq!(order.cancel(&[], wish(""), now).unwrap(), Err(CancelRefusal::Shipped));
    order.lines[0].shipped = 0;
    let etag = order.etag();
    assert!(matches!(order.cancel(&[], wish(&etag), now).unwrap(), Ok(Cancel::Whole(_))));
    assert_eq!(order.state, State::Cancelling);
    assert_eq!(order.cancel(&[], wish(&etag), now).unwrap(), Err(CancelRefusal::Busy));
}

#[test]
fn cancelling_all_remaining_pieces_cancels_the_order() {
    let all = [Pieces { number: 1, quantity: 3 }, Pieces { number: 2, quantity: 1 }];
    let mut order = confirmed();
    let Ok(Cancel::Items(part, _)) = order.cancel(&all[..1], STAFF, Utc::now()).unwrap() else { panic!("not in part") };
    assert_eq!((part.cause, part.refund.minor, order.state), (Cause::Cancellation, 300, State::Confirmed));
    // The rest can be cancelled only after the first cancellation has ended.
    assert_eq!(order.cancel(&all[1..], STAFF, Utc::now()).unwrap(), Err(CancelRefusal::Busy));
    let mut order = confirmed();
    assert!(matches!(order.cancel(&all, STAFF, Utc::now()).unwrap(), Ok(Cancel::Whole(_))));
    assert_eq!(order.state, State::Cancelling);
    let mut order = confirmed();
    order.lines[0].shipped = 1;
    let Ok(Cancel::Items(..)) = order.cancel(&all[1..], STAFF, Utc::now()).unwrap() else { panic!("not in part") };
}

#[test]
fn an_order_can_be_abandoned_until_its_capture_is_requested() {
    let authorized = || Answer::Authorized { provider: "model".into(), reference: "ref".into() };
    let answers = [Answer::Done, authorized(), Answer::Done];
    let mut order = place(vec![line(1, 1, 100, true)]);
    for (step, answer) in [Reserve, Authorize, Commit].into_iter().zip(answers) {
        let mut given_up = order.clone();
        let entries = given_up.abandon(STAFF, "model", Utc::now()).unwrap();
        assert_eq!(
            (entries[0].kind, entries[0].actor.as_str(), entries[0].internal),
            (Kind::Abandoned, "users/usr_s", true)
        );
        assert_eq!((order.step, given_up.step), (Some(step), Some(Release)));
        assert!(given_up.rejection.unwrap().message.ends_with("operator: broken"));
        // An authorisation without a response must be voided, too.
        let held = given_up.payment.map(|payment| payment.state);
        assert_eq!(held, Some(PaymentState::Authorized), "{step:?}");
        order.advance(&answer, None, Utc::now()).unwrap();
    }
    let before = order.clone();
    let illegal = order.abandon(STAFF, "model", Utc::now()).unwrap_err();
    assert!(illegal.to_string().contains("Abandoned at Some(Capture) in Pending"), "{illegal}");
    assert_eq!(before, order);
    assert!(confirmed().abandon(STAFF, "model", Utc::now()).is_err());
}

#[test]
fn only_payment_steps_can_be_settled_manually() {
    let now = Utc::now();
    let authorized = Answer::Authorized { provider: "model".into(), reference: "ref".into() };
    let mut order = place(vec![line(1, 2, 100, true)]);
    for (step, answer) in [Reserve, Authorize, Commit].into_iter().zip([Answer::Done, authorized, Answer::Done]) {
        assert_eq!(order.step, Some(step));
        let before = order.clone();
        for done in [Reserve, Authorize, Commit, Capture, Release, Void, Restock, Refund] {
            assert!(order.finish(done, STAFF, now).is_err(), "{done:?} at {step:?}");
        }
        assert_eq!(before, order);
        order.advance(&answer, None, now).unwrap();
    }
    let illegal = order.finish(Refund, STAFF, now).unwrap_err();
    assert!(illegal.to_string().contains("Done at Some(Refund) in Pending"), "{illegal}");
    let entries = order.finish(Capture, STAFF, now).unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.kind, entry.actor.as_str(), entry.internal)).collect();
    let operator = "users/usr_s";
    assert_eq!(
        told,
        [
            (Kind::FinishedManually, operator, true),
            (Kind::PaymentCaptured, operator, false),
            (Kind::Confirmed, SERVICE_ACTOR, false)
        ]
    );
    assert_eq!((entries[0].detail.as_str(), entries[1].detail.as_str()), ("broken", ""));
    let manual = |order: &Order| {
        let payment = order.payment.clone().unwrap();
        (payment.state, payment.settled_manually, payment.refunded_manually)
    };
    assert_eq!((order.state, order.step, manual(&order)), (Confirmed, None, (PaymentState::Captured, true, 0)));
    assert!(order.finish(Capture, STAFF, now).is_err(), "twice");

    // One piece is returned, then the rest is cancelled. Each piece counts once.
    let what = What::Return(vec![Pieces { number: 1, quantity: 1 }]);
    let (mut back, _) = Adjustment::begin(&mut order, &what, STAFF, None, now).unwrap().unwrap();
    assert!(back.finish(Restock, STAFF).is_err() && back.finish(Refund, STAFF).is_err());
    back.advance(&Answer::Done, now).unwrap();
    let entries = back.finish(Refund, STAFF).unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::FinishedManually, Kind::PaymentRefunded, Kind::ReturnCompleted]);
    assert!(back.settled_manually && back.state == Completed);
    order.take_adjustment(&back, entries.len(), now);
    assert_eq!(manual(&order), (PaymentState::Captured, true, 100));
    assert!(matches!(order.cancel(&[], STAFF, now).unwrap(), Ok(Cancel::Whole(_))));
    order.advance(&Answer::Done, None, now).unwrap();
    order.finish(Refund, STAFF, now).unwrap();
    assert_eq!((order.state, order.refunded, manual(&order)), (Cancelled, 200, (PaymentState::Refunded, true, 200)));
}

#[test]
fn a_manual_step_is_the_last_of_its_saga() {
    for Row(state, step, _, _, next) in TABLE.iter().filter(|row| row.2 == Done && row.1.can_be_done_manually()) {
        assert!(matches!(next, Reach(..)), "{step:?} in {state:?}");
    }
}

#[test]
fn the_table_has_each_line_once() {
    for (index, row) in TABLE.iter().enumerate() {
        let same = TABLE[..index].iter().any(|other| (other.0, other.1, other.2) == (row.0, row.1, row.2));
        assert!(!same, "{:?} {:?} {:?}", row.0, row.1, row.2);
    }
}
