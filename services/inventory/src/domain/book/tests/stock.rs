//! Manual changes of stock.

use chrono::TimeDelta;

use super::{adjust, count, location, order, product, reserve, transfer, world};
use crate::domain::{
    book::Spent,
    command::{Action, Adjustment, Changed, Refusal, Undercount},
};

#[test]
fn an_adjustment_is_made_once_and_never_below_the_reserved_stock() {
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
fn one_invalid_item_prevents_the_whole_change() {
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
fn a_key_whose_response_was_deleted_is_not_used_again() {
    let mut world = world();
    world.one(adjust("a", 0, None, 5)).unwrap();
    world.spent.values_mut().for_each(|spent| *spent = Spent::Forgotten);
    assert_eq!(world.one(adjust("a", 0, None, 5)), Err(Refusal::KeyReused));
    assert_eq!(world.on_hand(0), 5);
}

#[test]
fn a_transfer_moves_only_stock_that_is_not_reserved() {
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
    // Expired reservations hold no stock.
    world.now += TimeDelta::seconds(10);
    world.one(transfer("b", 0, (1, 0), 3)).unwrap();
}

#[test]
fn a_count_is_refused_if_the_stock_changed_meanwhile() {
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
    // Changed stock is reported first: a new count may find enough for the reservations.
    world.one(reserve(1, &[(0, 3)])).unwrap();
    assert_eq!(world.one(counted("a", [None, Some(3)])), refused);
    world.one(Action::Release { order: order(1) }).unwrap();
    // The refusals did not use up the key. The expected quantity is the stock on hand, including reserved pieces.
    let first = world.one(counted("a", [Some(5), Some(4)])).unwrap();
    assert_eq!((world.on_hand(0), world.on_hand(1)), (2, 9));
    assert_eq!(world.one(counted("a", [Some(5), Some(4)])).unwrap(), first, "the first answer again");
}

#[test]
fn a_count_sets_stock_but_never_below_the_reserved_stock() {
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
