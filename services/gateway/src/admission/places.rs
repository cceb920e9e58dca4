//! Who holds a place, who waits for one, and who is next: the rule alone, without time.

use std::{collections::HashMap, hash::Hash};

/// Someone who waits, and may leave.
pub trait Waiter {
    /// Whether they have.
    fn has_left(&self) -> bool;
}

/// The places that there are.
pub struct Places<K, W> {
    free: usize,
    share: usize,
    /// As many may wait as there are places.
    queue: usize,
    holding: HashMap<K, usize>,
    /// By their arrival.
    waiting: Vec<Waiting<K, W>>,
}

struct Waiting<K, W> {
    caller: K,
    rank: u8,
    waiter: W,
}

/// What became of a caller who wants a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// They have it.
    At,
    /// They wait, until they are given one, or their waiter is dropped: then another one's wish goes first.
    Waiting,
    /// Too many wait already.
    Refused,
}

impl<K: Copy + Eq + Hash, W: Waiter> Places<K, W> {
    /// So many places, of which a caller may hold `share`.
    pub fn new(places: usize, share: usize) -> Self {
        let (holding, waiting) = (HashMap::new(), Vec::new());
        Self { free: places, share: share.max(1), queue: places, holding, waiting }
    }

    /// A caller wants a place. Of those who hold as many, the lowest rank is first.
    pub fn enter(&mut self, caller: K, rank: u8, waiter: W) -> Entered {
        // No one can be waiting for what is free: it would have been given to them.
        if self.free > 0 && self.held(&caller) < self.share {
            self.take(caller);
            return Entered::At;
        }
        self.waiting.retain(|waiting| !waiting.waiter.has_left());
        if self.waiting.len() >= self.queue {
            let greediest = self.waiting.iter().map(|waiting| self.asked(&waiting.caller)).max().unwrap_or(0);
            if self.asked(&caller) + 1 >= greediest {
                return Entered::Refused;
            }
            let last = self.waiting.iter().rposition(|waiting| self.asked(&waiting.caller) == greediest);
            last.map(|last| self.waiting.remove(last));
        }
        self.waiting.push(Waiting { caller, rank, waiter });
        Entered::Waiting
    }

    /// A caller gives a place back. Hands back who has it now.
    pub fn leave(&mut self, caller: &K) -> Option<(K, W)> {
        self.free += 1;
        match self.holding.get_mut(caller) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(self.holding.remove(caller)),
        }
        self.waiting.retain(|waiting| !waiting.waiter.has_left());
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| self.held(&waiting.caller) < self.share);
        let (next, _) = may.min_by_key(|(_, waiting)| (self.held(&waiting.caller), waiting.rank))?;
        let Waiting { caller, waiter, .. } = self.waiting.remove(next);
        self.take(caller);
        Some((caller, waiter))
    }

    fn take(&mut self, caller: K) {
        self.free -= 1;
        *self.holding.entry(caller).or_default() += 1;
    }

    fn held(&self, caller: &K) -> usize {
        self.holding.get(caller).copied().unwrap_or(0)
    }

    /// Places held and waited for.
    fn asked(&self, caller: &K) -> usize {
        self.held(caller) + self.waiting.iter().filter(|waiting| waiting.caller == *caller).count()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use proptest::prelude::*;

    use super::*;

    /// Says whether it waits, has left, or was turned away.
    #[derive(Clone, Default)]
    struct Test(Rc<Cell<bool>>);

    impl Waiter for Test {
        fn has_left(&self) -> bool {
            self.0.get()
        }
    }

    fn enter(places: &mut Places<u8, Test>, caller: u8) -> Entered {
        places.enter(caller, 1, Test::default())
    }

    #[test]
    fn who_holds_the_fewest_is_next() {
        let mut places = Places::new(3, 3);
        for caller in [1, 1, 2] {
            assert_eq!(enter(&mut places, caller), Entered::At);
        }
        for caller in [1, 2, 3] {
            assert_eq!(enter(&mut places, caller), Entered::Waiting);
        }
        assert_eq!(places.leave(&1).unwrap().0, 3);
        assert_eq!(places.leave(&3).unwrap().0, 1, "both hold one: who came first");
    }

    #[test]
    fn of_equals_the_lower_rank_is_next() {
        let mut places = Places::new(2, 2);
        assert_eq!((enter(&mut places, 1), enter(&mut places, 1)), (Entered::At, Entered::At));
        assert_eq!(places.enter(2, 2, Test::default()), Entered::Waiting);
        assert_eq!(places.enter(3, 0, Test::default()), Entered::Waiting);
        assert_eq!(places.leave(&1).unwrap().0, 3);
    }

    #[test]
    fn where_too_many_wait_the_greediest_gives_way() {
        let mut places = Places::new(2, 2);
        for expected in [Entered::At, Entered::At, Entered::Waiting, Entered::Waiting, Entered::Refused] {
            assert_eq!(enter(&mut places, 1), expected);
        }
        assert_eq!(enter(&mut places, 2), Entered::Waiting, "in the place of one of 1");
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
        fn places_are_neither_lost_nor_made_nor_hoarded(
            count in 1..6usize, share in 1..6usize, steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut places = Places::new(count, share);
            let mut held: Vec<u8> = Vec::new();
            let mut waiters: Vec<Test> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter(caller, rank) => {
                        let waiter = Test::default();
                        match places.enter(caller, rank, waiter.clone()) {
                            Entered::At => held.push(caller),
                            Entered::Waiting => waiters.push(waiter),
                            Entered::Refused => prop_assert!(places.waiting.len() >= count),
                        }
                    }
                    Step::Leave(_) if held.is_empty() => {}
                    Step::Leave(at) => {
                        let leaves = held.swap_remove(at % held.len());
                        if let Some((caller, waiter)) = places.leave(&leaves) {
                            prop_assert!(!waiter.has_left(), "no place goes to who has left");
                            held.push(caller);
                        }
                    }
                    Step::GiveUp(_) if waiters.is_empty() => {}
                    Step::GiveUp(at) => waiters[at % waiters.len()].0.set(true),
                }
                let of = |caller: u8| held.iter().filter(|holds| **holds == caller).count();
                prop_assert_eq!(places.free + held.len(), count);
                prop_assert!((0..5).all(|caller| of(caller) <= share && places.held(&caller) == of(caller)));
                prop_assert!(places.waiting.len() <= count);
                let waits = |caller: u8| places.waiting.iter().any(|waiting| waiting.caller == caller && !waiting.waiter.has_left());
                prop_assert!(
                    places.free == 0 || (0..5).all(|caller| !waits(caller) || of(caller) == share),
                    "no one waits for what they could have"
                );
            }
            for caller in held {
                places.leave(&caller);
            }
        }

        /// However many one asks for, another who asks for one gets the next place that falls free.
        #[test]
        fn a_flood_does_not_keep_others_out(count in 1..6usize, flood in 1..50usize) {
            let mut places = Places::new(count, count);
            for _ in 0..flood + count {
                enter(&mut places, 1);
            }
            prop_assert_eq!(enter(&mut places, 2), Entered::Waiting);
            prop_assert_eq!(places.leave(&1).unwrap().0, 2);
        }
    }
}
