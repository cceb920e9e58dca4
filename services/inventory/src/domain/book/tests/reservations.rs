//! Reserve, commit, release and return.

use chrono::TimeDelta;

use super::{give_back, location, order, places, product, reservation, reserve, world};
use crate::domain::{
    command::{Action, Refusal, Shortage},
    reservation::State,
};

#[test]
fn orders_are_filled_by_priority_and_from_one_location_if_possible() {
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
fn every_short_product_is_named_and_nothing_is_reserved() {
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
fn the_last_pieces_go_to_the_first_command_of_the_batch() {
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
fn expired_stock_is_available_at_once_and_still_sold_while_it_lasts() {
    let mut world = world();
    world.receive(0, 0, 5);
    world.one(reserve(1, &[(0, 5)])).unwrap();
    world.now += TimeDelta::seconds(10);
    // The expiry job has not run.
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
fn a_released_order_never_reserves_again() {
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
fn goods_are_returned_once_for_each_key_to_their_location() {
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
