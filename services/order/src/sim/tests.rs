//! Runs the simulation with many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    live,
    wire::Fault,
    world::{Planted, Seen},
};

/// Seeds that once broke a promise, and the faults that they found.
const KEPT: &[(u64, &str)] =
    &[(118, "a step that another replica had stored was taken for one's own, as the order's version was the same")];

/// The default number of seeds.
const SEEDS: u64 = 2_000;

const STEPS: [&str; 8] = ["reserve", "authorize", "commit", "capture", "release", "void", "restock", "refund"];
const WRITES: [&str; 6] = ["place", "save", "claim", "give up a lease", "cancel", "adjust"];

/// Runs a seed, and prints its history if a promise was broken.
fn try_seed(seed: u64) -> Seen {
    match live(seed, None, false) {
        Ok((seen, _)) => seen,
        Err(broken) => {
            let trace = live(seed, None, true).map_or_else(|broken| broken.trace, |(_, trace)| trace);
            panic!(
                "{}\nseed {seed} broke a promise: {}\nlive through it again: SOUK_TEST_SEED={seed} \
                 cargo test -p souk-order --lib one_seed -- --nocapture",
                trace.join("\n"),
                broken.promises.join("; "),
            );
        }
    }
}

/// `SOUK_TEST_SEED=7` runs this seed twice and prints its history.
#[test]
fn one_seed_can_be_repeated() {
    let seed = std::env::var("SOUK_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let lived = [(); 2].map(|()| live(seed, None, true));
    let traces = lived.map(|lived| match lived {
        Ok((_, trace)) => (trace, String::new()),
        Err(broken) => (broken.trace, broken.promises.join("; ")),
    });
    println!("{}", traces[0].0.join("\n"));
    assert_eq!(traces[0], traces[1], "the same seed is another life");
    assert_eq!(traces[0].1, "", "seed {seed} broke a promise");
}

#[test]
fn seeds_that_once_broke_a_promise_pass() {
    for (seed, _) in KEPT {
        try_seed(*seed);
    }
}

/// `SOUK_TEST_SEEDS=100000` sets the number of seeds. The default is `SEEDS`.
#[test]
fn no_seed_breaks_a_promise() {
    let seeds = std::env::var("SOUK_TEST_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let began = std::time::Instant::now();
    let mut seen = Seen::new();
    for seed in 0..seeds {
        for (what, count) in try_seed(seed) {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{seeds} seeds in {:?}", began.elapsed());
    for ((what, place), count) in &seen {
        println!("{count:>9} {what}: {place}");
    }
    if seeds < SEEDS {
        return;
    }
    for place in STEPS {
        let missing: Vec<_> =
            Fault::ALL.into_iter().filter(|fault| !seen.contains_key(&(fault.name(), place))).collect();
        assert!(missing.is_empty(), "{place} never had {missing:?}");
    }
    for place in WRITES {
        let due = Fault::ALL.into_iter().filter(|fault| *fault != Fault::Doubled);
        let missing: Vec<_> = due.filter(|fault| !seen.contains_key(&(fault.name(), place))).collect();
        assert!(missing.is_empty(), "{place} never had {missing:?}");
    }
    for what in [
        ("taken over", "saga"),
        ("somebody else took over", "saga"),
        ("refused", "save"),
        ("refused", "authorize"),
        ("refused", "capture"),
        ("done manually", "capture"),
        ("done manually", "void"),
        ("done manually", "refund"),
        ("reservation ran out", "stock"),
        ("killed", "replica"),
        ("drained", "replica"),
        ("somebody else had acted", "act"),
        ("another replica was faster", "publish"),
    ] {
        assert!(seen.contains_key(&what), "{what:?} never happened");
    }
}

/// A planted fault must be found within this many seeds.
const ENOUGH: u64 = 2_000;

fn finds(planted: Planted) {
    let found = (0..ENOUGH).find_map(|seed| {
        // Code may panic when its invariants are broken on purpose. That counts as found.
        match catch_unwind(AssertUnwindSafe(|| live(seed, Some(planted), false))) {
            Ok(Ok(_)) => None,
            Ok(Err(broken)) => Some((seed, broken.promises.join("; "))),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    });
    println!("{planted:?}: {found:?}");
    assert!(found.is_some(), "{planted:?} is not found within {ENOUGH} seeds");
}

/// Each planted fault has its own test, so that the tests run in parallel.
macro_rules! planted {
    ($($name:ident: $planted:ident;)*) => {
        $(#[test]
        fn $name() {
            finds(Planted::$planted);
        })*
    };
}

planted! {
    finds_steps_stored_by_anyone: SaveByAnyone;
    finds_stored_told_by_version: SavedByVersion;
    finds_forgotten_keys: KeyForgotten;
    finds_forgotten_releases: ReleaseForgotten;
    finds_commits_that_do_not_last: CommitNotDurable;
    finds_money_taken_first: CaptureFirst;
    finds_refunds_given_again: RefundAgain;
    finds_forgotten_voids: VoidForgotten;
    finds_steps_finished_blindly: FinishBlindly;
    finds_checkpoints_moved_first: CheckpointFirst;
    finds_readers_that_go_by_number: ReadByNumber;
    finds_blind_publishing: PublishBlindly;
}
