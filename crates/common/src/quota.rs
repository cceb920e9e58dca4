//! Limits how much of a resource (connections, bytes, streams) clients hold: per address and in total.
//!
//! A client with IPv6 usually controls a whole /64, and often a /56 or a /48. So the networks around an IPv6 address
//! have limits, too. These are higher than the limit of one address and lower than the total, so that other clients
//! always find a part of the resource free.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Limits how much all clients together, and each address, may hold.
#[derive(Debug)]
pub struct Quota {
    total: u64,
    per_address: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: u64,
    /// The amount that each network holds. Networks that hold nothing are removed.
    networks: HashMap<Network, u64>,
}

/// An IPv4 address, or a network of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// True if the address is in this network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        networks(address).any(|network| network == self)
    }
}

/// The networks that an address counts in.
fn networks(address: IpAddr) -> impl Iterator<Item = Network> {
    let (prefixes, address): (&[u8], _) = match address.to_canonical() {
        v4 @ IpAddr::V4(_) => (&[32], v4),
        v6 @ IpAddr::V6(_) => (&[64, 56, 48], v6),
    };
    prefixes.iter().map(move |&prefix| {
        let first = match address {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - prefix))).into(),
        };
        Network { first, prefix }
    })
}

impl Quota {
    /// Creates a quota with a total limit and a limit for each address: an IPv4 address, or a /64 of IPv6. The limit of
    /// a /56 is twice as high, but at most three quarters of the total. The limit of a /48 is four times as high, but
    /// at most seven eighths of the total.
    #[must_use]
    pub fn new(total: u64, per_address: u64) -> Arc<Self> {
        Arc::new(Self { total, per_address, used: Mutex::default() })
    }

    /// Takes an amount for an address. `None`: a limit of the address, of a network around it or of the total would be
    /// exceeded.
    #[must_use]
    pub fn take(self: &Arc<Self>, address: IpAddr, amount: u64) -> Option<Held> {
        let mut held = Held { quota: self.clone(), address: Some(address), amount: 0 };
        held.grow(amount).then_some(held)
    }

    /// Takes an amount that only counts against the total limit.
    #[must_use]
    pub fn take_of_total(self: &Arc<Self>, amount: u64) -> Option<Held> {
        let mut held = Held { quota: self.clone(), address: None, amount: 0 };
        held.grow(amount).then_some(held)
    }

    /// The smallest network around an address that has reached its limit.
    #[must_use]
    pub fn full(&self, address: IpAddr) -> Option<Network> {
        let used = self.lock();
        networks(address).find(|network| used.networks.get(network).is_some_and(|held| *held >= self.limit(*network)))
    }

    /// True if an address could take this amount now.
    #[must_use]
    pub fn has_room(&self, address: IpAddr, amount: u64) -> bool {
        self.fits(&self.lock(), networks(address), amount)
    }

    fn fits(&self, used: &Used, mut networks: impl Iterator<Item = Network>, more: u64) -> bool {
        let fits = |held: u64, limit: u64| held.checked_add(more).is_some_and(|sum| sum <= limit);
        let held = |network: &Network| used.networks.get(network).copied().unwrap_or_default();
        fits(used.total, self.total) && networks.all(|network| fits(held(&network), self.limit(network)))
    }

    /// The amount that all clients hold now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().total
    }

    fn limit(&self, network: Network) -> u64 {
        match network.prefix {
            48 => self.per_address.saturating_mul(4).min(self.total - self.total / 8),
            56 => self.per_address.saturating_mul(2).min(self.total - self.total / 4),
            _ => self.per_address.min(self.total),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a quota. It is released when the value is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub struct Held {
    quota: Arc<Quota>,
    /// `None`: the amount only counts against the total limit.
    address: Option<IpAddr>,
    amount: u64,
}

impl Held {
    /// Takes an additional amount, completely or not at all. Returns true if it was taken.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let mut used = self.quota.lock();
        let has_room = self.quota.fits(&used, self.networks(), more);
        if has_room && more > 0 {
            used.total += more;
            for network in self.networks() {
                *used.networks.entry(network).or_default() += more;
            }
            self.amount += more;
        }
        has_room
    }

    /// Releases a part, at most the amount that is held.
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.amount);
        if less == 0 {
            return;
        }
        let mut used = self.quota.lock();
        used.total -= less;
        for network in self.networks() {
            if let Entry::Occupied(mut held) = used.networks.entry(network) {
                *held.get_mut() -= less;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        // Shrinks the map after a peak, when its capacity is much larger than needed.
        if used.networks.capacity() > 64 && used.networks.len() < used.networks.capacity() / 8 {
            used.networks.shrink_to_fit();
        }
        self.amount -= less;
    }

    /// The amount that is held.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    fn networks(&self) -> impl Iterator<Item = Network> + use<> {
        self.address.into_iter().flat_map(networks)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How much of a total of 1,000 these addresses can hold, one after the other, with a limit of 100 for each
    /// address.
    fn most(addresses: impl IntoIterator<Item = String>) -> u64 {
        let quota = Quota::new(1000, 100);
        let mut held = Vec::new();
        for text in addresses {
            held.extend(std::iter::from_fn(|| quota.take(address(&text), 1)));
        }
        quota.used()
    }

    #[test]
    fn a_network_may_hold_more_than_an_address_and_less_than_the_total() {
        assert_eq!(most(["192.0.2.1".to_owned()]), 100);
        assert_eq!(most(["192.0.2.1", "::ffff:192.0.2.1"].map(str::to_owned)), 100);
        assert_eq!(most((0..9).map(|host| format!("2001:db8::{host}"))), 100);
        assert_eq!(most((0..9).map(|subnet| format!("2001:db8:0:{subnet}::1"))), 200);
        assert_eq!(most((0..9).map(|subnet| format!("2001:db8:0:{subnet}00::1"))), 400);
        assert_eq!(most((0..9).map(|site| format!("2001:db8:{site}::1"))), 900);
        assert_eq!(most((0..20).map(|host| format!("192.0.2.{host}"))), 1000);
        let large = Quota::new(1000, 1000);
        assert!(large.take(address("2001:db8::1"), 751).is_none());
        let _first = large.take(address("2001:db8::1"), 750).unwrap();
        assert!(large.take(address("2001:db8:0:100::1"), 126).is_none());
        let _second = large.take(address("2001:db8:0:100::1"), 125).unwrap();
        assert!(large.take(address("192.0.2.1"), 125).is_some());
        assert!(Quota::new(1, 1).take(address("2001:db8::1"), 1).is_some(), "one of one is not rounded to none");
    }

    #[test]
    fn the_full_network_is_named() {
        let quota = Quota::new(5, 2);
        let full = |text: &str| quota.full(address(text));
        let _held = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| quota.take(address(text), 1).unwrap());
        assert_eq!(full("2001:db8::3").map(|network| network.prefix), Some(64));
        assert_eq!(full("2001:db8:0:1::3"), None);
        let _last = quota.take(address("2001:db8:0:2::1"), 1).unwrap();
        let block = full("2001:db8:0:1::3").unwrap();
        assert_eq!(block.prefix, 56, "twice of 2 are held in it");
        assert!(block.contains(address("2001:db8:0:ff::1")) && !block.contains(address("2001:db8:0:100::1")));
        assert_eq!(full("192.0.2.1"), None);
        let proxy = quota.take_of_total(1).unwrap();
        assert!(quota.take(address("192.0.2.1"), 1).is_none() && quota.take_of_total(1).is_none());
        drop(proxy);
        assert!(quota.take(address("192.0.2.1"), 1).is_some());
    }

    #[test]
    fn concurrent_threads_keep_the_count_exact() {
        let quota = Quota::new(50, 20);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let quota = &quota;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let held = quota.take(address(&format!("192.0.2.{}", thread % 3)), 7);
                        assert!(quota.used() <= 50);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(quota.used(), 0);
        assert!(quota.lock().networks.is_empty());
    }

    /// Addresses that share networks of every size.
    fn any_address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0..3_u8).prop_map(|host| IpAddr::from([192, 0, 2, host]));
        let v6 = (0..2_u16, 0..2_u16, 0..2_u16, 0..2_u16).prop_map(|(site, block, subnet, host)| {
            IpAddr::from([0x2001, 0xdb8, site, block << 8 | subnet, 0, 0, 0, host])
        });
        prop_oneof![v4, v6]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(IpAddr, u64),
        Grow(usize, u64),
        Shrink(usize, u64),
        Drop(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let amount = prop_oneof![8 => 0..40_u64, 1 => Just(u64::MAX)];
        prop_oneof![
            3 => (any_address(), amount.clone()).prop_map(|(address, amount)| Step::Take(address, amount)),
            1 => (any::<usize>(), amount.clone()).prop_map(|(which, more)| Step::Grow(which, more)),
            1 => (any::<usize>(), amount).prop_map(|(which, less)| Step::Shrink(which, less)),
            1 => any::<usize>().prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn the_count_is_exact_after_any_sequence(total in 0..200_u64, per_address in 0..120_u64,
                                steps in prop::collection::vec(any_step(), 0..80)) {
            let quota = Quota::new(total, per_address);
            let mut all: Vec<Held> = Vec::new();
            // The amount that each network holds, computed again from the held parts.
            let sum = |all: &[Held], network: Network| -> u64 {
                let inside = all.iter().filter(|held| held.networks().any(|other| other == network));
                inside.map(|held| held.amount).sum()
            };
            let fits = |all: &[Held], address, more: u64| {
                let total_held: u64 = all.iter().map(|held| held.amount).sum();
                let within = |held: u64, limit: u64| u128::from(held) + u128::from(more) <= u128::from(limit);
                within(total_held, total) && networks(address).all(|network| {
                    let (held, three_quarters, seven_eighths) =
                        (sum(all, network), total - total / 4, total - total / 8);
                    within(held, match network.prefix {
                        48 => (4 * per_address).min(seven_eighths),
                        56 => (2 * per_address).min(three_quarters),
                        _ => per_address.min(total),
                    })
                })
            };
            for step in steps {
                match step {
                    Step::Take(address, amount) => {
                        let expected = fits(&all, address, amount);
                        let taken = quota.take(address, amount);
                        prop_assert_eq!(taken.is_some(), expected);
                        all.extend(taken);
                    }
                    Step::Grow(which, more) if !all.is_empty() => {
                        let which = which % all.len();
                        let expected = fits(&all, all[which].address.unwrap(), more);
                        prop_assert_eq!(all[which].grow(more), expected);
                    }
                    Step::Shrink(which, less) if !all.is_empty() => {
                        let which = which % all.len();
                        all[which].shrink(less);
                    }
                    Step::Drop(which) if !all.is_empty() => drop(all.swap_remove(which % all.len())),
                    Step::Grow(..) | Step::Shrink(..) | Step::Drop(_) => {}
                }
                let used = quota.lock();
                prop_assert_eq!(used.total, all.iter().map(|held| held.amount).sum::<u64>());
                for (network, held) in &used.networks {
                    prop_assert_eq!((*held, *held > 0), (sum(&all, *network), true));
                }
            }
            all.clear();
            prop_assert_eq!(quota.used(), 0);
            prop_assert!(quota.lock().networks.is_empty());
        }
    }
}
