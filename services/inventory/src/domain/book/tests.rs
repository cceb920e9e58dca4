//! Tests the rules with random histories.
#![allow(clippy::unwrap_used)]

mod reservations;
mod stock;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use souk_common::ids::{LocationId, OrderId, ProductId};

use super::{Book, Changes, Facts, Known, Spent, StockRow};
use crate::domain::{
    command::{Action, Adjustment, Command, Counted, Moved, Refusal, Reply, RequestKey},
    product::{State as ProductState, Tracking},
    reservation::{Items, Reservation, State},
    stock::{Level, Place, Reason},
};

/// The data of a store, in memory.
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
        // Sorted by priority, which differs from the order of ids.
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

    /// Checks the invariants.
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

    /// Receives goods at a location, under a new idempotency key.
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
    /// Random batches, with time passing between them. [`World::run`] checks the invariants after each.
    #[test]
    fn no_random_history_breaks_the_invariants(
        history in prop::collection::vec((prop::collection::vec(any_action(), 1..8), 0..8_i64), 1..20),
    ) {
        let mut world = world();
        for (batch, seconds) in history {
            world.run(batch);
            world.now += TimeDelta::seconds(seconds);
        }
    }

    /// A batch has the same results as its commands one by one.
    #[test]
    fn a_batch_has_the_results_of_its_commands_one_by_one(
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
