//! The random choices of a run. They depend only on the seed: the same seed makes the same choices, whatever the
//! services do.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// The services, by their subcommands.
pub const SERVICES: [&str; 4] = ["user", "inventory", "order", GATEWAY];
/// The gateway, which is called over HTTP.
pub const GATEWAY: &str = "gateway";
/// Payment tokens of the simulated provider, and how often each is used in 100 orders.
const TOKENS: [(&str, u32); 5] =
    [("tok_approved", 70), ("tok_declined", 8), ("tok_slow", 4), ("tok_fails_once", 9), ("tok_lost_answer", 9)];

/// The plan of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Products by number, and pieces. A product may occur twice.
    pub items: Vec<(usize, i64)>,
    /// The payment token of the simulated provider.
    pub token: &'static str,
    /// How many times the request is sent at once.
    pub copies: usize,
    /// True if the request is sent once more at the end.
    pub again: bool,
    /// How many cancellations are sent at once, if the order is confirmed.
    pub cancels: usize,
    /// What is returned, if the order is confirmed. Return and cancellation are sent at the same time.
    pub back: Option<Back>,
}

/// The return of a part of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// The number of the line, from 1.
    pub line: usize,
    /// The number of pieces.
    pub pieces: i64,
    /// How many times the return is sent at once.
    pub copies: usize,
}

impl Plan {
    /// The plan of the order with this number.
    pub fn of(seed: u64, number: u64, products: usize) -> Self {
        let mut rng = rng(seed, number);
        let mut items: Vec<(usize, i64)> =
            (0..rng.random_range(1..=3)).map(|_| (rng.random_range(0..products), rng.random_range(1..=3))).collect();
        if rng.random_bool(0.3) {
            items.push((items[0].0, rng.random_range(1..=3)));
        }
        let token = TOKENS.choose_weighted(&mut rng, |(_, weight)| *weight).map_or(TOKENS[0].0, |(token, _)| token);
        let mut copies = |likely| if rng.random_bool(likely) { rng.random_range(2..=4) } else { 1 };
        let (placed, cancelled, returned) = (copies(0.3), copies(0.3), copies(0.3));
        let line = rng.random_range(0..items.len());
        let back = Back { line: line + 1, pieces: rng.random_range(1..=items[line].1), copies: returned };
        let fate = rng.random_range(0..100);
        Self {
            items,
            token,
            copies: placed,
            again: rng.random_bool(0.1),
            cancels: if fate < 20 { cancelled } else { 0 },
            back: (15..40).contains(&fate).then_some(back),
        }
    }
}

/// A kill: the time, the services, and how long they are down.
#[derive(Debug, Clone, PartialEq)]
pub struct Strike {
    /// The progress of the run at which the kill happens, from 0 to 1.
    pub at: f64,
    /// The services that are killed at the same time.
    pub victims: Vec<&'static str>,
    /// Seconds until they are started again.
    pub down: f64,
}

/// Plans a number of kills. The last one is at the very end.
pub fn strikes(seed: u64, count: u32) -> Vec<Strike> {
    let mut rng = rng(seed, u64::MAX);
    let mut moments: Vec<f64> = (1..count).map(|_| rng.random_range(0.02..1.0)).collect();
    moments.sort_by(f64::total_cmp);
    moments.extend((count > 0).then_some(1.0));
    let strike = |at| {
        let together = if rng.random_bool(0.2) { 2 } else { 1 };
        Strike { at, victims: SERVICES.sample(&mut rng, together).copied().collect(), down: rng.random_range(0.0..1.0) }
    };
    moments.into_iter().map(strike).collect()
}

/// A separate random sequence for each number, so that it does not matter which buyer takes the number.
pub fn rng(seed: u64, number: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let plans = |seed| (0..500).map(|number| Plan::of(seed, number, 5)).collect::<Vec<_>>();
        assert_eq!(plans(7), plans(7));
        assert_ne!(plans(7), plans(8));
        assert_eq!(strikes(7, 9), strikes(7, 9));
        assert_ne!(strikes(7, 9), strikes(8, 9));
    }

    #[test]
    fn every_kind_of_action_is_planned() {
        let plans: Vec<Plan> = (0..500).map(|number| Plan::of(1, number, 5)).collect();
        for (token, _) in TOKENS {
            assert!(plans.iter().any(|plan| plan.token == token), "{token}");
        }
        let twice = |plan: &Plan| plan.items.len() > 1 && plan.items[0].0 == plan.items[plan.items.len() - 1].0;
        assert!(plans.iter().any(twice) && plans.iter().any(|plan| plan.copies > 1 && plan.again));
        assert!(plans.iter().any(|plan| plan.cancels > 1 && plan.back.is_some()));
        for back in plans.iter().filter_map(|plan| plan.back.map(|back| (plan, back))) {
            assert!(back.1.pieces <= back.0.items[back.1.line - 1].1);
        }
        let strikes = strikes(1, 200);
        assert!(SERVICES.iter().all(|victim| strikes.iter().any(|strike| strike.victims.contains(victim))));
        assert!(strikes.iter().any(|strike| strike.victims.len() == 2));
        assert!(strikes.is_sorted_by(|a, b| a.at <= b.at) && strikes[199].at == 1.0);
    }
}
