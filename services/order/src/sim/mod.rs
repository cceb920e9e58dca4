//! The simulation by seeds: the real saga runner, with everything around it in memory and with faults.
//!
//! The simulation has one thread and virtual time, and the seed decides everything: which requests are lost, delayed or
//! duplicated, at which await a replica of the service dies, how wrong each clock is, and what customers and operators
//! request and when. Then the faults stop until everything has ended, and every promise is checked.
//! `SOUK_TEST_SEEDS=100000` sets the number of seeds; `SOUK_TEST_SEED=7` runs one seed and prints its history.
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

/// A broken promise, with the history that led to it.
struct Broken {
    promises: Vec<String>,
    trace: Vec<String>,
}

/// Runs one seed.
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
        // Drops the services, which hold the world that holds them.
        state.replicas.iter_mut().for_each(|replica| replica.service = None);
        let (promises, trace) = (std::mem::take(&mut state.broken), state.trace.take().unwrap_or_default());
        if promises.is_empty() { Ok((std::mem::take(&mut state.seen), trace)) } else { Err(Broken { promises, trace }) }
    })
}
