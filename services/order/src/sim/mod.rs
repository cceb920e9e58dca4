//! The simulation by seeds: the real saga runner, with everything around it in memory and with faults.
//!
//! One thread, virtual time, and a seed that decides everything: which request is lost, late or doubled, which replica of
//! the service dies at which await, whose clock is how wrong, what customers and operators want and when. Then all goes
//! well until everything has ended, and every promise is looked at. `SOUK_TEST_SEEDS=100000` tries so many seeds;
//! `SOUK_TEST_SEED=7` lives through one and prints what happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod bank;
mod dice;
mod journal;
mod log;
mod model;
mod people;
mod promises;
mod service;
mod shelf;
mod tests;
mod wire;
mod world;

use std::time::Duration;

use tokio::{runtime::Builder, task::JoinSet, time::sleep};

use self::world::{Planted, REPLICAS, Seen, World};

/// A promise that was broken.
struct Broken {
    promises: Vec<String>,
    trace: Vec<String>,
}

/// Lives through one seed.
fn live(seed: u64, planted: Option<Planted>, traced: bool) -> Result<(Seen, Vec<String>), Broken> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, planted, traced);
        for replica in 0..REPLICAS {
            tokio::spawn(service::keep(world.clone(), replica));
        }
        let (chaos, customers) = {
            let state = world.state();
            (state.plan.chaos, state.plan.customers)
        };
        let mut people = JoinSet::new();
        for number in 0..customers {
            people.spawn(people::customer(world.clone(), number));
        }
        tokio::spawn(people::mischief(world.clone()));
        tokio::spawn(people::operator(world.clone()));
        sleep(chaos).await;
        {
            let mut state = world.state();
            state.quiet = true;
            state.tell(|| "all is quiet from now on".to_owned());
        }
        let all = async {
            while let Some(end) = people.join_next().await {
                end.unwrap();
            }
            loop {
                let ended = {
                    let state = world.state();
                    state.under_way == 0 && state.has_ended()
                };
                if ended {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let ended = tokio::time::timeout(people::LONG, all).await.is_ok();
        let mut state = world.state();
        if !ended {
            state.broke("it does not come to its end");
        }
        promises::check(&mut state);
        // They hold the world that holds them.
        state.replicas.iter_mut().for_each(|replica| replica.service = None);
        let (promises, trace) = (std::mem::take(&mut state.broken), state.trace.take().unwrap_or_default());
        if promises.is_empty() { Ok((std::mem::take(&mut state.seen), trace)) } else { Err(Broken { promises, trace }) }
    })
}
