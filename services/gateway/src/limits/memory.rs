//! Budgets in the memory of one gateway. Their number is limited, and a budget is dropped when it is full again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};

use super::{
    Key,
    gcra::{Budget, Taken},
};

/// Maximum number of budgets, about 20 MB. Beyond it, the least recently used budgets are evicted. This weakens
/// nothing: an attacker with that many addresses has that many budgets in any case.
const KEPT: u64 = 100_000;

/// Rate limit budgets by key.
pub struct Memory {
    debts: Cache<Key, Arc<AtomicU64>>,
    started: Instant,
}

impl Memory {
    /// Creates an empty store. A budget that is not used for `longest_refill` is deleted: it is full by then, like a
    /// new one.
    pub fn new(longest_refill: Duration) -> Self {
        let debts = Cache::builder()
            .max_capacity(KEPT)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(longest_refill.max(Duration::from_secs(1)))
            .build();
        Self { debts, started: Instant::now() }
    }

    /// Charges a request to the budget of a key.
    pub fn take(&self, key: Key, budget: Budget, cost: u32) -> Taken {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let debt = self.debts.get_with(key, Arc::default);
        let mut before = debt.load(Ordering::Relaxed);
        loop {
            let mut after = before;
            let taken = budget.take(&mut after, now, cost);
            match debt.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(changed) => before = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use souk_common::contract::RateClass;

    use super::{super::Who, *};

    fn key(number: u32) -> Key {
        Key { class: RateClass::Read, who: Who::Address(IpAddr::V4(Ipv4Addr::from_bits(number))) }
    }

    #[test]
    fn concurrent_threads_share_a_budget_exactly() {
        let memory = Memory::new(Duration::from_secs(3600));
        let budget = Budget { burst: 500, interval: 3_600_000_000 };
        let work = || (0..200).filter(|_| memory.take(key(1), budget, 1).denied.is_none()).count();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 500);
        assert_eq!(memory.take(key(2), budget, 1).remaining, 499, "another key has a budget of its own");
    }

    #[test]
    fn the_number_of_keys_is_limited() {
        let memory = Memory::new(Duration::from_secs(3600));
        let budget = Budget { burst: 2, interval: 3_600_000_000 };
        for number in 0..u32::try_from(KEPT).unwrap() + 20_000 {
            memory.take(key(number), budget, 1);
            // A caller that keeps sending requests is never evicted because of others.
            if number == 0 || number % 1000 == 0 {
                memory.take(key(0), budget, 1);
            }
        }
        memory.debts.run_pending_tasks();
        assert!(memory.debts.entry_count() <= KEPT);
        assert!(memory.take(key(0), budget, 1).denied.is_some());
    }
}
