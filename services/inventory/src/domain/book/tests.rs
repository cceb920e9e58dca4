//! The rules, tried with whole histories that nobody thought of.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use souk_common::ids::{LocationId, OrderId, ProductId};

use super::{
    book::{Book, Changes, Facts, Known, Spent, StockRow},
    command::{Action, Adjustment, Changed, Command, Counted, Moved, Refusal, Reply, RequestKey, Shortage, Undercount},
    product::{State as ProductState, Tracking},
    reservation::{Items, Reservation, State},
    stock::{Level, Place, Reason},
};

/// What a store would hold, without a store.
struct World {
    now: DateTime<Utc>,
    locations: Vec<LocationId>,
    products: HashMap<ProductId, Facts>,
    stock: BTreeMap<Place, Level>,
    reservations: BTreeMap<OrderId, Reservation>,
    spent: HashMap<Vec<u8>, Spent>,
    ledger: BTreeMap<Place, i64>,
}

fn product(number: u8) -> ProductId {
    ProductId::from_uuid(uuid(1, number))
}

fn order(number: u8) -> OrderId {
    OrderId::from_uuid(uuid(2, number))
}

fn location(number: u8) -> LocationId {
    LocationId::from_uuid(uuid(3, number))
}

fn uuid(kind: u8, number: u8) -> uuid::Uuid {
    uuid::Uuid::from_u128(u128::from(kind) << 8 | u128::from(number))
}

/// Products 0, 1 and 2 are goods, 3 is untracked, 4 is archived.
fn world() -> World {
    let facts = |number| Facts {
        state: if number == 4 { ProductState::Archived } else { ProductState::Active },
        tracking: if number == 3 { Tracking::Untracked } else { Tracking::Tracked },
        low_stock_threshold: None,
    };
    World {
        now: DateTime::UNIX_EPOCH,
        // By priority, which is not the order of ids.
        locations: vec![location(1), location(0)],
        products: (0..5).map(|number| (product(number), facts(number))).collect(),
        stock: BTreeMap::new(),
        reservations: BTreeMap::new(),
        spent: HashMap::new(),
        ledger: BTreeMap::new(),
    }
}

impl World {
    /// Runs a batch as the store would.
    fn run(&mut self, actions: Vec<Action>) -> Vec<Result<Reply, Refusal>> {
        let commands: Vec<_> =
            actions.into_iter().map(|action| Command { actor: "services/order".into(), action }).collect();
        let mut book = Book::open(Known {
            now: self.now,
            posted_at: self.now,
            locations: self.locations.clone(),
            products: self.products.clone(),
            stock: self.stock.iter().map(|(&place, &level)| StockRow { place, level }).collect(),
            reservations: self.reservations.values().cloned().collect(),
            spent: self.spent.clone(),
        });
        let answers = book.decide(&commands);
        self.apply(book.into_changes());
        self.check();
        answers
    }

    fn one(&mut self, action: Action) -> Result<Reply, Refusal> {
        self.run(vec![action]).remove(0)
    }

    /// Writes changes row by row, as a database would.
    fn apply(&mut self, changes: Changes) {
        for row in changes.stock_added {
            assert!(self.stock.insert(row.place, row.level).is_none(), "the place is not new");
        }
        for row in changes.stock_changed {
            assert!(self.stock.insert(row.place, row.level).is_some(), "the place is new");
        }
        for row in changes.created {
            assert!(self.reservations.insert(row.order, row).is_none(), "the reservation is not new");
        }
        for row in &changes.moved {
            let lines = self.reservations[&row.order].lines.clone();
            self.reservations.insert(row.order, Reservation { lines, ..row.clone() });
        }
        for row in changes.relined {
            self.reservations.get_mut(&row.order).unwrap().lines = row.lines;
        }
        for (order, line) in changes.returned {
            let lines = &mut self.reservations.get_mut(&order).unwrap().lines;
            let stored = lines.iter_mut().find(|l| (l.product, l.location) == (line.product, line.location));
            stored.unwrap().returned = line.returned;
        }
        for order in changes.freed {
            assert_eq!(self.reservations[&order].held_until(), None, "freed while open");
        }
        for entry in changes.ledger {
            let movement = entry.movement;
            let sum = self.ledger.entry((movement.product, movement.location)).or_default();
            *sum += movement.quantity;
            assert_eq!(*sum, movement.on_hand_after);
        }
        for (id, answer) in changes.answers {
            assert!(self.spent.insert(id, Spent::Answered(answer)).is_none(), "answered twice");
        }
    }

    /// The invariants.
    fn check(&self) {
        let mut reserved = BTreeMap::<Place, i64>::new();
        for reservation in self.reservations.values().filter(|r| r.state == State::Open) {
            for line in &reservation.lines {
                *reserved.entry((line.product, line.location)).or_default() += line.quantity;
            }
        }
        for (place, level) in &self.stock {
            assert_eq!(level.on_hand, self.ledger.get(place).copied().unwrap_or_default());
            assert_eq!(level.reserved, reserved.get(place).copied().unwrap_or_default());
            assert!(0 <= level.reserved && level.reserved <= level.on_hand, "{level:?}");
        }
        for reservation in self.reservations.values() {
            assert!(reservation.lines.iter().all(|l| 0 <= l.returned && l.returned <= l.quantity));
        }
    }

    fn on_hand(&self, number: u8) -> i64 {
        self.stock.iter().filter(|((p, _), _)| *p == product(number)).map(|(_, level)| level.on_hand).sum()
    }

    /// Puts goods somewhere, under a key of its own.
    fn receive(&mut self, number: u8, at: u8, quantity: i64) {
        let key = format!("{number}/{at}/{quantity}/{}", self.spent.len());
        self.one(adjust(&key, number, Some(at), quantity)).unwrap();
    }
}

fn items(list: &[(u8, i64)]) -> Items {
    list.iter().map(|&(number, quantity)| (product(number), quantity)).collect()
}

fn reserve(number: u8, list: &[(u8, i64)]) -> Action {
    Action::Reserve { order: order(number), items: items(list), ttl: TimeDelta::seconds(10) }
}

fn adjust(key: &str, number: u8, at: Option<u8>, quantity: i64) -> Action {
    Action::Adjust {
        key: RequestKey::new("users/a", "AdjustStock", key, format!("{number} {at:?} {quantity}").as_bytes()),
        items: vec![Adjustment { product: product(number), location: at.map(location), quantity }],
        reason: Reason::Receipt,
        reference: String::new(),
        note: String::new(),
    }
}

fn transfer(key: &str, number: u8, (source, destination): (u8, u8), quantity: i64) -> Action {
    let bytes = format!("{number} {source} {destination} {quantity}");
    Action::Transfer {
        key: RequestKey::new("users/a", "TransferStock", key, bytes.as_bytes()),
        source: location(source),
        destination: location(destination),
        items: vec![Moved { product: product(number), quantity }],
        reference: String::new(),
        note: String::new(),
    }
}

fn count(key: &str, list: &[(u8, u8, i64)]) -> Action {
    let counted = |&(number, at, quantity): &(u8, u8, i64)| Counted {
        product: product(number),
        location: Some(location(at)),
        quantity,
        expected_on_hand: None,
    };
    Action::Count {
        key: RequestKey::new("users/a", "CountStock", key, format!("{list:?}").as_bytes()),
        items: list.iter().map(counted).collect(),
        reference: String::new(),
        note: String::new(),
    }
}

fn give_back(number: u8, key: &str, list: &[(u8, i64)]) -> Action {
    let bytes = format!("{number} {list:?}");
    let key = RequestKey::new("services/order", "ReturnReservation", key, bytes.as_bytes());
    Action::Return { order: order(number), key, items: items(list) }
}

fn reservation(answer: Result<Reply, Refusal>) -> Reservation {
    match answer.unwrap() {
        Reply::Reservation(reservation) => reservation,
        Reply::Levels(levels) => panic!("{levels:?}"),
    }
}

fn places(reservation: &Reservation) -> Vec<(LocationId, i64)> {
    reservation.lines.iter().map(|line| (line.location, line.quantity)).collect()
}

#[test]
fn orders_are_filled_by_priority_and_from_one_place_where_that_can_be() {
    let mut world = world();
    world.receive(0, 1, 3);
    world.receive(0, 0, 10);
    let one = reservation(world.one(reserve(1, &[(0, 2)])));
    assert_eq!(places(&one), [(location(1), 2)], "the first by priority that has it all");
    let other = reservation(world.one(reserve(2, &[(0, 5)])));
    assert_eq!(places(&other), [(location(0), 5)], "the first has only 1 left");
    let split = reservation(world.one(reserve(3, &[(0, 6)])));
    assert_eq!(places(&split), [(location(0), 5), (location(1), 1)], "no one place has 6");
}

#[test]
fn every_short_product_is_named_and_nothing_is_held() {
    let mut world = world();
    world.receive(0, 0, 3);
    world.receive(1, 0, 10);
    let short = |number, wanted, available| Shortage { product: product(number), wanted, available };
    assert_eq!(
        world.one(reserve(1, &[(0, 5), (1, 10), (2, 1), (3, 99)])),
        Err(Refusal::OutOfStock(vec![short(0, 5, 3), short(2, 1, 0)]))
    );
    assert!(world.reservations.is_empty());
    assert_eq!(world.one(reserve(1, &[(4, 1)])), Err(Refusal::Archived(vec![product(4)])));
    assert_eq!(world.one(reserve(1, &[(9, 1)])), Err(Refusal::NoProduct(product(9))));
    assert!(reservation(world.one(reserve(1, &[(3, 1_000_000)]))).lines.is_empty());
}

#[test]
fn the_last_pieces_go_to_who_came_first_in_the_batch() {
    let mut world = world();
    world.receive(0, 0, 5);
    let answers = world.run(vec![reserve(1, &[(0, 3)]), reserve(2, &[(0, 3)]), reserve(3, &[(0, 2)])]);
    let won: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(won, [true, false, true]);
}

#[test]
fn a_reservation_is_repeated_but_not_changed() {
    let mut world = world();
    world.receive(0, 0, 5);
    let first = reservation(world.one(reserve(1, &[(0, 3)])));
    world.now += TimeDelta::seconds(3);
    assert_eq!(reservation(world.one(reserve(1, &[(0, 3)]))), first, "not even prolonged");
    assert_eq!(world.one(reserve(1, &[(0, 2)])), Err(Refusal::OtherItems(order(1))));
    let sold = reservation(world.one(Action::Commit { order: order(1) }));
    assert_eq!(reservation(world.one(Action::Commit { order: order(1) })), sold);
    assert_eq!(reservation(world.one(reserve(1, &[(0, 3)]))), sold);
    let sold_already = Refusal::WrongState { order: order(1), state: State::Committed };
    assert_eq!(world.one(Action::Release { order: order(1) }), Err(sold_already));
    assert_eq!(world.on_hand(0), 2);
}

#[test]
fn what_ran_out_is_free_at_once_and_sold_while_there_is_stock() {
    let mut world = world();
    world.receive(0, 0, 5);
    world.one(reserve(1, &[(0, 5)])).unwrap();
    world.now += TimeDelta::seconds(10);
    // Nobody swept.
    world.one(reserve(2, &[(0, 4)])).unwrap();
    let short = Shortage { product: product(0), wanted: 5, available: 1 };
    assert_eq!(world.one(Action::Commit { order: order(1) }), Err(Refusal::OutOfStock(vec![short])));
    assert_eq!(world.reservations[&order(1)].state, State::Expired);
    world.one(Action::Release { order: order(2) }).unwrap();
    let sold = reservation(world.one(Action::Commit { order: order(1) }));
    assert_eq!((sold.state, world.on_hand(0)), (State::Committed, 0));
}

#[test]
fn an_expired_reservation_can_be_made_again() {
    let mut world = world();
    world.receive(0, 0, 5);
    world.one(reserve(1, &[(0, 5)])).unwrap();
    world.now += TimeDelta::seconds(10);
    let anew = reservation(world.one(reserve(1, &[(0, 2)])));
    assert_eq!((anew.state, places(&anew)), (State::Open, vec![(location(0), 2)]));
    assert_eq!(anew.expires_at, world.now + TimeDelta::seconds(10));
}

#[test]
fn a_released_order_never_holds_again() {
    let mut world = world();
    world.receive(0, 0, 5);
    let tombstone = reservation(world.one(Action::Release { order: order(1) }));
    assert_eq!((tombstone.state, tombstone.lines.len()), (State::Released, 0));
    let released = || Err(Refusal::WrongState { order: order(1), state: State::Released });
    assert_eq!(world.one(reserve(1, &[(0, 1)])), released());
    assert_eq!(world.one(Action::Commit { order: order(1) }), released());
    assert_eq!(reservation(world.one(Action::Release { order: order(1) })), tombstone);
    assert_eq!(world.one(Action::Commit { order: order(2) }), Err(Refusal::NoReservation(order(2))));
}

#[test]
fn goods_come_back_once_for_each_key_to_where_they_came_from() {
    let mut world = world();
    world.receive(0, 1, 2);
    world.receive(0, 0, 3);
    world.one(reserve(1, &[(0, 5), (3, 1)])).unwrap();
    let open = Refusal::WrongState { order: order(1), state: State::Open };
    assert_eq!(world.one(give_back(1, "a", &[(0, 1)])), Err(open));
    world.one(Action::Commit { order: order(1) }).unwrap();
    let first = reservation(world.one(give_back(1, "a", &[(0, 3), (3, 1)])));
    let back: Vec<_> = first.lines.iter().map(|line| (line.location, line.returned)).collect();
    assert_eq!(back, [(location(0), 1), (location(1), 2)], "the first by priority is filled first");
    assert_eq!(reservation(world.one(give_back(1, "a", &[(0, 3), (3, 1)]))), first);
    assert_eq!(world.one(give_back(1, "a", &[(0, 2)])), Err(Refusal::KeyReused));
    let excess = Shortage { product: product(0), wanted: 3, available: 2 };
    assert_eq!(world.one(give_back(1, "b", &[(0, 3)])), Err(Refusal::NotSold(vec![excess])));
    world.one(give_back(1, "b", &[(0, 2)])).unwrap();
    assert_eq!(world.on_hand(0), 5);
    let never = Shortage { product: product(1), wanted: 1, available: 0 };
    assert_eq!(world.one(give_back(1, "c", &[(1, 1)])), Err(Refusal::NotSold(vec![never])));
}

#[test]
fn an_adjustment_is_made_once_and_never_cuts_into_what_is_reserved() {
    let mut world = world();
    let five = adjust("a", 0, None, 5);
    let answers = world.run(vec![five.clone(), five.clone()]);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(world.on_hand(0), 5);
    assert_eq!(world.stock[&(product(0), location(1))].on_hand, 5, "the first location by priority");
    assert_eq!(world.one(adjust("a", 0, None, 6)), Err(Refusal::KeyReused));
    world.one(reserve(1, &[(0, 4)])).unwrap();
    let below = Refusal::BelowReserved { item: 0, product: product(0), quantity: -2, on_hand: 5, left: 3, reserved: 4 };
    assert_eq!(world.one(adjust("b", 0, Some(1), -2)), Err(below));
    world.one(adjust("b", 0, Some(1), -1)).unwrap();
    let elsewhere = world.one(adjust("c", 0, Some(0), -1));
    assert!(matches!(elsewhere, Err(Refusal::BelowReserved { left: -1, reserved: 0, .. })), "{elsewhere:?}");
    assert_eq!(world.one(adjust("d", 3, None, 1)), Err(Refusal::Untracked { item: 0, product: product(3) }));
    assert_eq!(world.one(adjust("e", 0, Some(7), 1)), Err(Refusal::NoItemLocation { item: 0, location: location(7) }));
}

#[test]
fn one_bad_item_leaves_all_as_it_was() {
    let mut world = world();
    world.receive(0, 1, 5);
    let Action::Adjust { key, reason, .. } = adjust("a", 0, None, 1) else { unreachable!() };
    let item = |number, quantity| Adjustment { product: product(number), location: None, quantity };
    let many =
        |items| Action::Adjust { key: key.clone(), items, reason, reference: String::new(), note: String::new() };
    let answer = world.one(many(vec![item(0, -3), item(1, 4), item(0, -3)]));
    assert!(matches!(answer, Err(Refusal::BelowReserved { item: 2, on_hand: 2, left: -1, .. })), "{answer:?}");
    assert_eq!((world.on_hand(0), world.on_hand(1)), (5, 0));
    let too_much = world.one(many(vec![item(0, i64::MAX)]));
    assert_eq!(too_much, Err(Refusal::TooMuch(product(0))));
}

#[test]
fn a_key_whose_answer_is_forgotten_is_not_used_again() {
    let mut world = world();
    world.one(adjust("a", 0, None, 5)).unwrap();
    world.spent.values_mut().for_each(|spent| *spent = Spent::Forgotten);
    assert_eq!(world.one(adjust("a", 0, None, 5)), Err(Refusal::KeyReused));
    assert_eq!(world.on_hand(0), 5);
}

#[test]
fn a_transfer_moves_what_is_not_reserved() {
    let mut world = world();
    world.receive(0, 1, 5);
    world.one(reserve(1, &[(0, 3)])).unwrap();
    let too_many = world.one(transfer("a", 0, (1, 0), 3));
    assert!(matches!(too_many, Err(Refusal::BelowReserved { left: 2, reserved: 3, .. })), "{too_many:?}");
    let first = world.one(transfer("a", 0, (1, 0), 2)).unwrap();
    assert_eq!(world.one(transfer("a", 0, (1, 0), 2)).unwrap(), first);
    let at = |number| world.stock[&(product(0), location(number))].on_hand;
    assert_eq!((at(1), at(0)), (3, 2));
    assert_eq!(world.one(transfer("b", 0, (1, 1), 1)), Err(Refusal::SameLocation(location(1))));
    let nowhere = Refusal::NoTransferLocation { field: "destination", location: location(7) };
    assert_eq!(world.one(transfer("b", 0, (1, 7), 1)), Err(nowhere));
    // Reservations that expired hold nothing back.
    world.now += TimeDelta::seconds(10);
    world.one(transfer("b", 0, (1, 0), 3)).unwrap();
}

#[test]
fn a_count_of_what_changed_meanwhile_is_refused() {
    let mut world = world();
    world.receive(0, 1, 5);
    world.receive(1, 1, 4);
    let counted = |key: &str, expected: [Option<i64>; 2]| {
        let Action::Count { key, mut items, reference, note } = count(key, &[(0, 1, 2), (1, 1, 9)]) else {
            unreachable!()
        };
        for (item, expected_on_hand) in items.iter_mut().zip(expected) {
            item.expected_on_hand = expected_on_hand;
        }
        Action::Count { key, items, reference, note }
    };
    let changed = Changed { item: 1, product: product(1), expected: 3, on_hand: 4 };
    let refused = Err(Refusal::ChangedWhileCounted(vec![changed]));
    assert_eq!(world.one(counted("a", [Some(5), Some(3)])), refused);
    assert_eq!(world.one(counted("a", [None, Some(3)])), refused);
    assert_eq!((world.on_hand(0), world.on_hand(1)), (5, 4), "nothing of it took effect");
    // What changed is told first: counted again, it may be enough for what is reserved.
    world.one(reserve(1, &[(0, 3)])).unwrap();
    assert_eq!(world.one(counted("a", [None, Some(3)])), refused);
    world.one(Action::Release { order: order(1) }).unwrap();
    // The key was not used up. Expected is what is on hand, with what is reserved.
    let first = world.one(counted("a", [Some(5), Some(4)])).unwrap();
    assert_eq!((world.on_hand(0), world.on_hand(1)), (2, 9));
    assert_eq!(world.one(counted("a", [Some(5), Some(4)])).unwrap(), first, "the first answer again");
}

#[test]
fn a_count_sets_stock_but_never_below_what_is_reserved() {
    let mut world = world();
    world.receive(0, 1, 5);
    world.one(reserve(1, &[(0, 3)])).unwrap();
    let below = Undercount { item: 1, product: product(0), counted: 2, reserved: 3 };
    let counted = world.one(count("a", &[(1, 1, 4), (0, 1, 2)]));
    assert_eq!(counted, Err(Refusal::CountedBelowReserved(vec![below])));
    assert_eq!(world.on_hand(1), 0, "nothing of it took effect");
    assert_eq!(world.one(count("a", &[(0, 1, 4), (0, 1, 4)])), Err(Refusal::CountedTwice { item: 1, first: 0 }));
    world.one(count("a", &[(0, 1, 3), (1, 0, 7)])).unwrap();
    assert_eq!((world.on_hand(0), world.on_hand(1)), (3, 7));
    let entries = world.ledger.clone();
    let first = world.one(count("b", &[(0, 1, 3)])).unwrap();
    assert_eq!(world.ledger, entries, "the book was right");
    world.receive(0, 1, 5);
    assert_eq!(world.one(count("b", &[(0, 1, 3)])).unwrap(), first);
    assert_eq!(world.on_hand(0), 8);
}

fn any_items() -> impl Strategy<Value = Vec<(u8, i64)>> {
    prop::collection::vec((0..4_u8, 1..6_i64), 1..4)
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..6_u8, any_items()).prop_map(|(order, list)| reserve(order, &list)),
        2 => (0..6_u8).prop_map(|number| Action::Commit { order: order(number) }),
        1 => (0..6_u8).prop_map(|number| Action::Release { order: order(number) }),
        1 => (0..6_u8).prop_map(|number| Action::Expire { order: order(number) }),
        1 => (0..6_u8, 0..4_u8, any_items())
            .prop_map(|(order, key, list)| give_back(order, &key.to_string(), &list)),
        1 => (0..50_u8, 0..3_u8, 0..2_u8, 1..5_i64)
            .prop_map(|(key, number, from, quantity)| transfer(&key.to_string(), number, (from, 1 - from), quantity)),
        1 => (0..50_u8, prop::collection::vec((0..4_u8, 0..2_u8, 0..9_i64), 1..4))
            .prop_map(|(key, list)| count(&key.to_string(), &list)),
        2 => (0..50_u8, 0..3_u8, prop::option::of(0..2_u8), -4..9_i64)
            .prop_map(|(key, number, at, quantity)| adjust(&key.to_string(), number, at, quantity.max(1) * if quantity < 0 { -1 } else { 1 })),
    ]
}

proptest! {
    /// Batches of anything, with time going by: [`World::run`] checks the invariants after each.
    #[test]
    fn no_history_breaks_the_invariants(
        history in prop::collection::vec((prop::collection::vec(any_action(), 1..8), 0..8_i64), 1..20),
    ) {
        let mut world = world();
        for (batch, seconds) in history {
            world.run(batch);
            world.now += TimeDelta::seconds(seconds);
        }
    }

    /// What comes in one batch ends as if it had come one by one.
    #[test]
    fn a_batch_is_its_members_one_after_the_other(
        before in prop::collection::vec(any_action(), 0..10),
        seconds in 0..20_i64,
        batch in prop::collection::vec(any_action(), 1..10),
    ) {
        let (mut together, mut apart) = (world(), world());
        together.run(before.clone());
        apart.run(before);
        together.now += TimeDelta::seconds(seconds);
        apart.now = together.now;
        let at_once = together.run(batch.clone());
        let in_turn: Vec<_> = batch.into_iter().map(|action| apart.one(action)).collect();
        prop_assert_eq!(at_once, in_turn);
        prop_assert_eq!(together.stock, apart.stock);
        prop_assert_eq!(together.reservations, apart.reservations);
    }
}
