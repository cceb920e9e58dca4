//! The rules of admission, without time: who holds a place, who waits, and who is next.
//!
//! No operation scans all waiting requests, because a flash sale has very many of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

/// The places, and the callers that hold or want them.
pub struct Places<K, W> {
    free: usize,
    share: usize,
    /// Maximum number of waiting requests. Equal to the number of places.
    queue: usize,
    waiting: usize,
    arrivals: u64,
    /// All callers that hold a place or wait for one.
    parties: HashMap<K, Party<W>>,
    /// Waiting callers that may get another place, ordered by places held, then by the rank and the arrival of their
    /// next wish.
    next: BTreeSet<(usize, u8, u64, K)>,
    /// Waiting callers, ordered by the number of places held and waited for, then by the arrival of their newest wish.
    greediest: BTreeSet<(usize, u64, K)>,
}

/// The places and wishes of one caller.
struct Party<W> {
    held: usize,
    /// The waiters, by rank and arrival.
    wishes: BTreeMap<(u8, u64), W>,
    /// The rank of each wish, by arrival.
    arrivals: BTreeMap<u64, u8>,
}

/// Identifies a waiting request of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    rank: u8,
    arrival: u64,
}

/// The result of a request for a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// The caller has a place.
    At,
    /// The caller waits until it gets a place or its waiter is dropped. A drop lets another wish go first.
    Waiting(Wish),
    /// Refused, because too many requests wait.
    Refused,
}

impl<W> Default for Party<W> {
    fn default() -> Self {
        Self { held: 0, wishes: BTreeMap::new(), arrivals: BTreeMap::new() }
    }
}

impl<W> Party<W> {
    /// Number of places held and waited for.
    fn asked(&self) -> usize {
        self.held + self.wishes.len()
    }
}

impl<K: Copy + Ord + Hash, W> Places<K, W> {
    /// Creates this number of places. One caller may hold at most `share` of them.
    pub fn new(places: usize, share: usize) -> Self {
        Self {
            free: places,
            share: share.max(1),
            queue: places,
            waiting: 0,
            arrivals: 0,
            parties: HashMap::new(),
            next: BTreeSet::new(),
            greediest: BTreeSet::new(),
        }
    }

    /// Requests a place for a caller. Among callers with the same number of places, the lowest rank comes first.
    pub fn enter(&mut self, caller: K, rank: u8, waiter: W) -> Entered {
        let (held, asked) = self.parties.get(&caller).map_or((0, 0), |party| (party.held, party.asked()));
        // Nobody waits for a free place that they may have: they would have got it already.
        if self.free > 0 && held < self.share {
            self.take(caller);
            return Entered::At;
        }
        if self.waiting >= self.queue {
            let Some(&(greediest, arrival, greedy)) = self.greediest.last() else { return Entered::Refused };
            if asked + 1 >= greediest {
                return Entered::Refused;
            }
            self.change(greedy, |party| {
                party.arrivals.remove(&arrival).and_then(|rank| party.wishes.remove(&(rank, arrival)))
            });
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.change(caller, |party| {
            party.wishes.insert((rank, arrival), waiter);
            party.arrivals.insert(arrival, rank);
        });
        Entered::Waiting(Wish { rank, arrival })
    }

    /// Returns a caller's place. If a waiting caller gets it, returns that caller and its waiter.
    pub fn leave(&mut self, caller: &K) -> Option<(K, W)> {
        self.free += 1;
        self.change(*caller, |party| party.held = party.held.saturating_sub(1));
        let &(_, rank, arrival, next) = self.next.first()?;
        let waiter = self.give_up(&next, Wish { rank, arrival })?;
        self.take(next);
        Some((next, waiter))
    }

    /// Ends the wait of a caller. `None` if the caller no longer waits for this wish.
    pub fn give_up(&mut self, caller: &K, Wish { rank, arrival }: Wish) -> Option<W> {
        self.change(*caller, |party| {
            party.arrivals.remove(&arrival);
            party.wishes.remove(&(rank, arrival))
        })
    }

    fn take(&mut self, caller: K) {
        self.free -= 1;
        self.change(caller, |party| party.held += 1);
    }

    /// Changes the places or wishes of a caller, and updates the order of the waiting callers.
    fn change<T>(&mut self, caller: K, change: impl FnOnce(&mut Party<W>) -> T) -> T {
        let party = self.parties.entry(caller).or_default();
        if let (Some((&(rank, first), _)), Some((&newest, _))) =
            (party.wishes.first_key_value(), party.arrivals.last_key_value())
        {
            self.next.remove(&(party.held, rank, first, caller));
            self.greediest.remove(&(party.asked(), newest, caller));
        }
        self.waiting -= party.wishes.len();
        let changed = change(party);
        self.waiting += party.wishes.len();
        if let (Some((&(rank, first), _)), Some((&newest, _))) =
            (party.wishes.first_key_value(), party.arrivals.last_key_value())
        {
            if party.held < self.share {
                self.next.insert((party.held, rank, first, caller));
            }
            self.greediest.insert((party.asked(), newest, caller));
        } else if party.held == 0 {
            self.parties.remove(&caller);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enter(places: &mut Places<u8, ()>, caller: u8) -> Entered {
        places.enter(caller, 1, ())
    }

    fn waits(entered: &Entered) -> bool {
        matches!(entered, Entered::Waiting(_))
    }

    #[test]
    fn the_caller_with_the_fewest_places_is_next() {
        let mut places = Places::new(3, 3);
        for caller in [1, 1, 2] {
            assert_eq!(enter(&mut places, caller), Entered::At);
        }
        for caller in [1, 2, 3] {
            assert!(waits(&enter(&mut places, caller)));
        }
        assert_eq!(places.leave(&1).unwrap().0, 3);
        assert_eq!(places.leave(&3).unwrap().0, 1, "both hold one: who came first");
    }

    #[test]
    fn of_callers_with_equally_many_places_the_lower_rank_is_next() {
        let mut places = Places::new(2, 2);
        assert_eq!((enter(&mut places, 1), enter(&mut places, 1)), (Entered::At, Entered::At));
        assert!(waits(&places.enter(2, 2, ())));
        assert!(waits(&places.enter(3, 0, ())));
        assert_eq!(places.leave(&1).unwrap().0, 3);
    }

    #[test]
    fn if_too_many_wait_the_caller_with_the_most_waiting_requests_loses_one() {
        let mut places = Places::new(2, 2);
        assert_eq!((enter(&mut places, 1), enter(&mut places, 1)), (Entered::At, Entered::At));
        assert!(waits(&enter(&mut places, 1)) && waits(&enter(&mut places, 1)));
        assert_eq!(enter(&mut places, 1), Entered::Refused);
        assert!(waits(&enter(&mut places, 2)), "in the place of one of 1");
        assert_eq!(places.leave(&1).unwrap().0, 2);
        assert_eq!(places.leave(&1).unwrap().0, 1);
        assert!(places.leave(&2).is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8, u8),
        Leave(usize),
        GiveUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..5u8, 0..3u8).prop_map(|(caller, rank)| Step::Enter(caller, rank)),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn the_number_of_places_is_exact_and_free_places_are_used(
            count in 1..6usize, share in 1..6usize, steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut places = Places::new(count, share);
            let mut held: Vec<u8> = Vec::new();
            // Waiting requests that have not given up. Some of them have been refused in the meantime.
            let mut wishes: Vec<(u8, Wish)> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter(caller, rank) => match places.enter(caller, rank, ()) {
                        Entered::At => held.push(caller),
                        Entered::Waiting(wish) => wishes.push((caller, wish)),
                        Entered::Refused => prop_assert!(places.waiting >= count),
                    },
                    Step::Leave(_) if held.is_empty() => {}
                    Step::Leave(at) => {
                        let leaves = held.swap_remove(at % held.len());
                        held.extend(places.leave(&leaves).map(|(caller, ())| caller));
                    }
                    Step::GiveUp(_) if wishes.is_empty() => {}
                    Step::GiveUp(at) => {
                        let (caller, wish) = wishes.swap_remove(at % wishes.len());
                        places.give_up(&caller, wish);
                        prop_assert!(places.give_up(&caller, wish).is_none(), "no place goes to who has left");
                    }
                }
                let of = |caller: u8| held.iter().filter(|holds| **holds == caller).count();
                prop_assert_eq!(places.free + held.len(), count);
                let party = |caller: u8| places.parties.get(&caller).map_or((0, 0), |party| (party.held, party.wishes.len()));
                prop_assert!((0..5).all(|caller| of(caller) <= share && party(caller).0 == of(caller)));
                prop_assert!(places.waiting <= count);
                prop_assert_eq!((0..5).map(|caller| party(caller).1).sum::<usize>(), places.waiting);
                prop_assert_eq!(places.greediest.len(), (0..5).filter(|caller| party(*caller).1 > 0).count());
                prop_assert_eq!(places.next.len(), (0..5).filter(|caller| party(*caller).1 > 0 && of(*caller) < share).count());
                let waits = |caller: u8| party(caller).1 > 0;
                prop_assert!(
                    places.free == 0 || (0..5).all(|caller| !waits(caller) || of(caller) == share),
                    "no one waits for what they could have"
                );
            }
            for caller in held {
                places.leave(&caller);
            }
        }

        /// However many places one caller wants, another caller that wants one gets the next free place.
        #[test]
        fn a_flood_of_one_caller_does_not_block_others(count in 1..6usize, flood in 1..50usize) {
            let mut places = Places::new(count, count);
            for _ in 0..flood + count {
                enter(&mut places, 1);
            }
            prop_assert!(waits(&enter(&mut places, 2)));
            prop_assert_eq!(places.leave(&1).unwrap().0, 2);
        }
    }
}
